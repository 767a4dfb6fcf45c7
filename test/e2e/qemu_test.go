package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const (
	guestJobs   = 4
	guestBlocks = 256 // of one job
	guestGoal   = 300 // requests between two events
)

// guest is a virtual machine's disk: qemu's NBD client, as a virtual machine has it by -blockdev, and programs that use it.
// None of them ever sees an error, or a block that is not what was written last.
type guest struct {
	c      *cluster
	link   string // the socket that qemu connects to, if it is one: it follows the source
	socket string // of the disk as the guest sees it
	stamps [guestJobs][guestBlocks]uint64
	done   atomic.Int64
	cancel context.CancelFunc
	jobs   sync.WaitGroup
	failed chan error
}

// boot starts a guest on the servers' unix sockets.
func boot(c *cluster) *guest {
	c.t.Helper()
	g := &guest{link: c.path("", "source.sock"), c: c}
	g.follow("a")
	g.start([]string{"qemu-storage-daemon"}, "server.type=unix,server.path="+g.link)
	return g
}

// start starts qemu, by a command line to which the disk is added, and the programs. Without reconnect-delay qemu would pass a lost connection on to them as an
// I/O error.
func (g *guest) start(line []string, server string) {
	c := g.c
	c.t.Helper()
	g.socket, g.failed = c.path("", "vm.sock"), make(chan error, guestJobs)
	line = append(line,
		"--blockdev", "driver=nbd,node-name=disk,"+server+",export="+c.name+",reconnect-delay=300",
		"--nbd-server", "addr.type=unix,addr.path="+g.socket+",max-connections=8", "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on")
	qemu := exec.Command(line[0], line[1:]...)
	var said strings.Builder
	qemu.Stderr = &said
	if err := qemu.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = qemu.Process.Kill()
		_ = qemu.Wait()
		if c.t.Failed() {
			c.t.Logf("qemu-storage-daemon: %s", said.String())
		}
	})
	c.wait("qemu shows the disk", settleMax, func() error {
		_, err := os.Stat(g.socket)
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	for job := range guestJobs {
		disk, err := dial("nbd+unix:///disk?socket=" + g.socket)
		if err != nil {
			c.t.Fatal(err)
		}
		g.jobs.Go(func() {
			defer disk.Close()
			if err := g.use(ctx, disk, job); err != nil {
				g.failed <- fmt.Errorf("job %d: %w", job, err)
			}
		})
	}
	c.t.Cleanup(func() { cancel(); g.jobs.Wait() }) // before qemu's end, which would fail them
}

// follow makes the address lead to the node, as a service address does.
func (g *guest) follow(node string) {
	g.c.t.Helper()
	err := os.Symlink(g.c.path(node, "nbd.sock"), g.link+".new")
	if err == nil {
		err = os.Rename(g.link+".new", g.link)
	}
	if err != nil {
		g.c.t.Fatal(err)
	}
}

// use writes blocks of its own, reads them again, and flushes at times.
func (g *guest) use(ctx context.Context, disk device, job int) error {
	rng := rand.New(rand.NewPCG(uint64(job), 1))
	for stamp := uint64(1); ctx.Err() == nil; stamp++ {
		block := rng.IntN(guestBlocks)
		if _, err := disk.WriteAt(stamped(job, block, stamp), offset(job, block)); err != nil {
			return fmt.Errorf("write %d: %w", stamp, err)
		}
		g.stamps[job][block] = stamp
		if err := g.read(disk, job, rng.IntN(guestBlocks)); err != nil {
			return err
		}
		if stamp%8 == 0 {
			if err := disk.Flush(); err != nil {
				return fmt.Errorf("flush after write %d: %w", stamp, err)
			}
		}
		g.done.Add(1)
	}
	return nil
}

func offset(job, block int) int64 { return int64(job*guestBlocks+block) * blockBytes }

func stamped(job, block int, stamp uint64) []byte {
	data := make([]byte, blockBytes)
	if stamp > 0 {
		for i := 0; i < len(data); i += 16 {
			binary.LittleEndian.PutUint64(data[i:], stamp)
			binary.LittleEndian.PutUint64(data[i+8:], uint64(offset(job, block)))
		}
	}
	return data
}

func (g *guest) read(disk device, job, block int) error {
	got := make([]byte, blockBytes)
	if _, err := disk.ReadAt(got, offset(job, block)); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if want := g.stamps[job][block]; string(got) != string(stamped(job, block, want)) {
		return fmt.Errorf("block %d holds stamp %d, not %d", block, binary.LittleEndian.Uint64(got), want)
	}
	return nil
}

// wait waits until the guest has done some hundred requests more, and fails if any of them failed.
func (g *guest) wait(why string) {
	g.c.t.Helper()
	goal := g.done.Load() + guestGoal
	g.c.wait("the guest goes on "+why, 2*settleMax, func() error {
		select {
		case err := <-g.failed:
			g.c.t.Fatalf("%s, the guest sees an error: %v", why, err)
		default:
		}
		if done := g.done.Load(); done < goal {
			return fmt.Errorf("%d requests missing", goal-done)
		}
		return nil
	})
}

// end ends the programs, and fails if any of them failed.
func (g *guest) end() {
	g.c.t.Helper()
	g.cancel()
	g.jobs.Wait()
	select {
	case err := <-g.failed:
		g.c.t.Fatal(err)
	default:
	}
}

// A virtual machine whose disk is a volume sees no error and loses nothing while the volume is switched over around three
// servers, its source's agent is restarted, and its source dies and another one takes over: qemu waits, connects anew, and
// does again what it had no answer to.
func TestVirtualMachineStaysUp(t *testing.T) {
	c := demo(t, "64MiB")
	g := boot(c)
	g.wait("at a")
	source := "a"
	for range c.nodes {
		to := c.after(source)
		c.waitMirroring(source, to)
		c.run(to, "switchover", c.name, "--to", to, "--yes")
		g.follow(to)
		g.wait("after the switchover to " + to)
		source = to
	}
	c.waitMirroring(source, c.others(source)...)
	c.stop(source)
	c.start(source)
	g.wait("after the restart of " + source)
	c.waitMirroring(source, c.others(source)...)
	heir := c.after(source)
	c.kill(source)
	c.takeOver(c.after(heir), heir)
	g.follow(heir)
	g.wait("after the death of " + source)
	c.start(source)
	c.waitMirroring(heir, c.others(heir)...)
	g.wait("with all servers")
	g.end()
	uri, err := c.address(heir)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := dial(uri)
	if err != nil {
		t.Fatal(err)
	}
	for job := range guestJobs {
		for block := range guestBlocks {
			err = errors.Join(err, g.read(disk, job, block))
		}
	}
	if err = errors.Join(err, disk.Close()); err != nil {
		t.Fatal(err)
	}
	c.same()
	t.Logf("%d requests, no error", g.done.Load())
}
