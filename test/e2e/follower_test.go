package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/frontend/nbd/nbdclient"
)

const (
	followerWriters = 4
	stripeBlocks    = 8                // of one writer; two writers share every 64 KiB region
	requestMax      = 90 * time.Second // longer than any limit of the product: who waits longer waits for ever
	nowhereMax      = 3 * time.Minute  // how long a volume may have no source while its servers are killed all the time
)

// follower is an application that uses a volume wherever it is. Each of its writers has a connection of its own, asks
// the agents for the source when it breaks, and owns every fourth stripe of blocks. A write without an answer counts
// as perhaps done: its block may hold it or what was there before until a later write is answered.
type follower struct {
	c      *cluster
	first  int64 // byte offset of block 0
	seed   uint64
	stamps [][]uint64
	next   atomic.Uint64

	answered, unanswered, connects atomic.Int64
	longest                        atomic.Int64 // ns that one request took

	cancel context.CancelFunc
	ended  sync.WaitGroup
	failed chan error // the first error of each writer
}

// follow starts a follower in [first, first+size) of the volume, which must be zero there.
func follow(c *cluster, first, size int64, seed uint64) *follower {
	f := &follower{c: c, first: first, seed: seed, stamps: make([][]uint64, size/blockBytes), failed: make(chan error, 4*followerWriters)}
	for i := range f.stamps {
		f.stamps[i] = []uint64{0}
	}
	f.begin()
	c.t.Cleanup(func() { f.halt() })
	return f
}

// begin starts the writers; after a stop they go on with what they know.
func (f *follower) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	for w := range followerWriters {
		f.ended.Go(func() {
			if err := f.write(ctx, w, rand.New(rand.NewPCG(f.seed+f.next.Load(), uint64(w)))); err != nil {
				f.failed <- fmt.Errorf("writer %d: %w", w, err)
			}
		})
	}
}

// halt ends the writers and waits for them. A second time it does nothing.
func (f *follower) halt() {
	f.cancel()
	f.ended.Wait()
}

// stop halts the follower and fails the test if a writer read something wrong.
func (f *follower) stop() {
	f.c.t.Helper()
	f.halt()
	select {
	case err := <-f.failed:
		f.c.t.Fatal(err)
	default:
	}
}

// waitAnswers waits for n more answered requests: proof that the volume is in use.
func (f *follower) waitAnswers(n int64) {
	f.c.t.Helper()
	goal := f.answered.Load() + n
	f.c.wait(fmt.Sprintf("%d more answers", n), settleMax, func() error {
		select {
		case err := <-f.failed:
			f.failed <- err
			return nil // stop reports it
		default:
		}
		if have := f.answered.Load(); have < goal {
			return fmt.Errorf("%d missing", goal-have)
		}
		return nil
	})
}

// connect finds the source and connects to its device, until ctx ends.
func (f *follower) connect(ctx context.Context) (device, error) {
	d, err := f.c.connect(ctx)
	if d != nil {
		f.connects.Add(1)
	}
	return d, err
}

// connect tries the NBD sockets of all nodes until one lets it in: a server that is not the source offers nothing. Returns nil
// when ctx ends, an error when nobody lets it in for nowhereMax.
func (c *cluster) connect(ctx context.Context) (device, error) {
	var d device
	err := until(nowhereMax, func() error {
		if ctx.Err() != nil {
			return nil
		}
		var errs []error
		for _, node := range c.nodes {
			var err error
			if d, err = dial("nbd+unix:///" + c.name + "?socket=" + c.path(node, "nbd.sock")); err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return d, err
}

// write uses its blocks until ctx ends. Errors of requests are what a switchover does to an application; wrong content is an error.
func (f *follower) write(ctx context.Context, w int, rng *rand.Rand) error {
	buf := make([]byte, stripeBlocks*blockBytes)
	for ctx.Err() == nil {
		d, err := f.connect(ctx)
		if err != nil {
			return fmt.Errorf("found no source: %w", err)
		}
		if d == nil {
			return nil
		}
		for ctx.Err() == nil {
			if err = f.request(d, w, rng, buf); err != nil {
				break
			}
		}
		_ = d.Close() // a broken connection has nothing more to say
		var wrong *wrongContent
		if errors.As(err, &wrong) {
			return err
		}
	}
	return nil
}

// wrongContent is what no fault excuses.
type wrongContent struct{ error }

func (w *wrongContent) Unwrap() error { return w.error }

// request does one random thing to a run of the writer's own blocks.
func (f *follower) request(d device, w int, rng *rand.Rand, buf []byte) error {
	stripes := len(f.stamps) / stripeBlocks / followerWriters
	block := (rng.IntN(stripes)*followerWriters+w)*stripeBlocks + rng.IntN(stripeBlocks)
	count := 1 + rng.IntN(stripeBlocks-block%stripeBlocks)
	off, p := f.first+int64(block)*blockBytes, buf[:count*blockBytes]
	begin := time.Now()
	hung := time.AfterFunc(requestMax, func() {
		f.failed <- fmt.Errorf("a request got no answer within %s", requestMax)
		_ = d.Close()
	})
	defer hung.Stop()
	var flags []nbdclient.Flag
	if rng.IntN(8) == 0 {
		flags = append(flags, nbdclient.FUA)
	}
	var err error
	switch dice := rng.IntN(100); {
	case dice < 75:
		stamp := f.next.Add(1)
		for i := range count {
			fillBlock(p[i*blockBytes:][:blockBytes], int64(block+i), stamp)
		}
		err = f.change(block, count, stamp, func() error { _, err := d.WriteAt(p, off, flags...); return err })
	case dice < 80:
		err = f.change(block, count, 0, func() error { return d.Zero(off, int64(len(p)), flags...) })
	case dice < 83:
		err = f.change(block, count, 0, func() error { return d.Trim(off, int64(len(p)), flags...) })
	case dice < 88:
		err = d.Flush()
	default:
		if _, err = d.ReadAt(p, off); err == nil {
			err = f.check(p, block, count)
		}
	}
	if took := int64(time.Since(begin)); took > f.longest.Load() {
		f.longest.Store(took)
	}
	if err != nil {
		f.unanswered.Add(1)
		return err
	}
	f.answered.Add(1)
	return nil
}

// change notes what the blocks may hold before and after the request that changes them.
func (f *follower) change(block, count int, stamp uint64, do func() error) error {
	for i := range count {
		f.stamps[block+i] = append(f.stamps[block+i], stamp)
	}
	if err := do(); err != nil {
		return err
	}
	for i := range count {
		f.stamps[block+i] = append(f.stamps[block+i][:0], stamp)
	}
	return nil
}

func (f *follower) check(p []byte, block, count int) error {
	for i := range count {
		if err := checkBlock(p[i*blockBytes:][:blockBytes], int64(block+i), f.stamps[block+i]); err != nil {
			return &wrongContent{err}
		}
	}
	return nil
}

// verify reads every block through the source and checks it. The follower must have been stopped.
func (f *follower) verify() {
	f.c.t.Helper()
	source, err := f.c.oneSource()
	if err != nil {
		f.c.t.Fatal(err)
	}
	d, err := f.connect(context.Background())
	if err != nil {
		f.c.t.Fatalf("%s: %v", source, err)
	}
	defer d.Close()
	buf := make([]byte, 256*blockBytes)
	for block := 0; block < len(f.stamps); block += 256 {
		count := min(256, len(f.stamps)-block)
		p := buf[:count*blockBytes]
		if _, err := d.ReadAt(p, f.first+int64(block)*blockBytes); err != nil {
			f.c.t.Fatalf("read at %s: %v", source, err)
		}
		if err := f.check(p, block, count); err != nil {
			f.c.t.Fatalf("at %s: %v", source, err)
		}
	}
	f.c.t.Logf("follower: %d answered, %d not, %d connects, longest %s", f.answered.Load(), f.unanswered.Load(), f.connects.Load(), time.Duration(f.longest.Load()).Round(time.Millisecond))
}
