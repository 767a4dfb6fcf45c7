package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

var (
	matrixCells = flag.Int("matrix-cells", 8, "cells of TestCrashMatrix, chosen by -matrix-seed; 0: all")
	matrixSeed  = flag.Uint64("matrix-seed", 0, "what chooses the cells and their chances; 0: the time")
	matrixOnly  = flag.String("matrix-only", "", "a regular expression: only cells of such a name")
)

// matrixClusters are under way at the same time. Most of a cell is waiting.
const matrixClusters = 3

// matrix is a cluster in which one cell happens after the other. Roles are as they were when the cell began: the giver is
// the source that hands over or dies, the heir follows it, the third is the other server.
type matrix struct {
	c     *cluster
	f     *follower
	rng   *rand.Rand
	roles map[string]string
	alone []byte // what a side that is to lose has written, at aloneAt
	loser string
}

// Parts of the volume: the follower's, and two for writes of one side only.
const (
	matrixSize    = "64MiB"
	followBytes   = 8 * mib
	behindAt      = 16 * mib
	aloneAt       = 32 * mib
	aloneBytes    = 128 << 10
	otherAt       = 40 * mib
	crashFile     = "crash-at"
	stepReachMax  = 45 * time.Second
	stoppedLookAt = 2 * time.Millisecond
)

func (m *matrix) node(role string) string { return m.roles[role] }

// arm tells an agent where to stop, or to kill itself, from now on.
func (m *matrix) arm(node, what, point string) {
	m.c.t.Helper()
	file := m.c.path(node, crashFile)
	if err := os.WriteFile(file+".new", []byte(what+" "+point), 0o644); err != nil {
		m.c.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		m.c.t.Fatal(err)
	}
}

// stopped waits until the node's agent has stopped itself.
func (m *matrix) stopped(node string) {
	m.c.t.Helper()
	end := time.Now().Add(stepReachMax)
	for {
		if pid, err := m.c.pid(node); err == nil {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); err == nil && fields[0] == "T" {
				return
			}
		}
		if time.Now().After(end) {
			m.c.t.Fatalf("%s did not come to the step within %s", node, stepReachMax)
		}
		time.Sleep(stoppedLookAt)
	}
}

// up starts the agents of these servers that do not run.
func (m *matrix) up(nodes ...string) {
	m.c.t.Helper()
	for _, node := range nodes {
		if pid, err := m.c.pid(node); err != nil || !alive(pid) {
			m.c.start(node)
		}
	}
}

// either is the server of one of the roles.
func (m *matrix) either(roles ...string) string { return m.node(roles[m.rng.IntN(len(roles))]) }

// force asks for a take-over until it is done, or fails for another reason than that the old source may live.
func (m *matrix) force(at, to string) result {
	var r result
	_ = until(settleMax, func() error {
		r = m.c.execute(at, "switchover", m.c.name, "--to", to, "--force", "--yes", "--timeout", "40s")
		if r.code == exitRefused && strings.Contains(r.stderr, lineage.RuleSourceAlive) {
			return r.err()
		}
		return nil
	})
	return r
}

// again is an administrator who wants that server to be the source, and asks until it is.
func (m *matrix) again(to string) {
	m.c.t.Helper()
	m.c.wait(to+" becomes the source when it is asked again", settleMax, func() error {
		r := m.c.execute(to, "switchover", m.c.name, "--to", to, "--force", "--yes", "--timeout", "20s")
		if r.code == exitRefused && strings.Contains(r.stderr, lineage.RuleAlreadySource) {
			return nil
		}
		if r.code == exitRefused && strings.Contains(r.stderr, lineage.RuleSourceClosed) { // the third had taken over, and waits for the giver
			m.c.execute(m.node("third"), "switchover", m.c.name, "--to", m.node("third"), "--force", "--yes", "--timeout", "20s")
		}
		return r.err()
	})
}

// resolve asks until no split brain is left. A server that followed the side that gave in shows one of its own afterwards.
func (m *matrix) resolve(keep string) {
	m.c.t.Helper()
	m.c.wait("the split brain ends, "+keep+" is kept", settleMax, func() error {
		if err := m.c.mirroring(keep, m.c.others(keep)...); err == nil {
			return nil
		}
		r := m.c.execute(keep, "split-brain", "resolve", m.c.name, "--keep", keep, "--yes", "--timeout", "20s")
		if r.code == exitRefused && strings.Contains(r.stderr, lineage.RuleNoSplitBrain) {
			return m.c.mirroring(keep, m.c.others(keep)...)
		}
		return errors.Join(r.err(), errors.New("not yet Mirroring"))
	})
}

// pause halts the follower; it goes on when the cell is over.
func (m *matrix) pause() { m.f.stop() }

// salvaged fails the test unless what the loser wrote alone is in a salvage of its, and deletes all salvages.
func (m *matrix) salvaged(source string) {
	t := m.c.t
	t.Helper()
	var all []api.Salvage
	if err := json.Unmarshal([]byte(m.c.run(source, "salvage", "list", m.c.name, "--json")), &all); err != nil {
		t.Fatal(err)
	}
	var errs []error
	found := false
	for i, s := range all {
		if s.Node == m.loser {
			dir := filepath.Join(m.c.dir, fmt.Sprintf("salvage-%d", i))
			m.c.run(source, "salvage", "export", m.c.name, s.ID, "--dir", dir)
			err := holds(dir, aloneAt, m.alone)
			found = found || err == nil
			errs = append(errs, err)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		m.c.run(source, "salvage", "delete", m.c.name, s.ID, "--yes")
	}
	if !found {
		t.Errorf("what %s had written alone is in none of its salvages: %+v: %v", m.loser, all, errs)
	}
}

// holds compares what a salvage was exported as with what was written at that offset. It may hold more: after a kill also
// what may have been another write.
func holds(dir string, off int64, want []byte) error {
	got := make([]byte, len(want))
	have := 0
	files, err := filepath.Glob(filepath.Join(dir, "*.raw")) // called by their offsets
	for _, file := range files {
		var at int64
		data, errRead := os.ReadFile(file)
		_, errName := fmt.Sscanf(filepath.Base(file), "%d.raw", &at)
		if err = errors.Join(err, errRead, errName); err != nil {
			return err
		}
		if at >= off && at < off+int64(len(want)) {
			have += copy(got[at-off:], data)
		}
	}
	if have != len(want) || !bytes.Equal(got, want) {
		return errors.Join(err, fmt.Errorf("%w: %d of %d bytes at %d are in %v", errContent, have, len(want), off, files))
	}
	return nil
}

// run makes one cell happen.
func (m *matrix) run(x cell) {
	c := m.c
	c.t.Helper()
	source := c.waitOneSource()
	others := c.others(source)
	m.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	m.roles = map[string]string{"giver": source, "heir": others[0], "third": others[1]}
	m.alone, m.loser = nil, ""
	c.t.Logf("%s: giver %s, heir %s, third %s", x, source, others[0], others[1])
	m.f.waitAnswers(50)
	x.way.prepare(m)

	at := m.node(x.at)
	m.arm(at, "stop", x.point)
	ended := make(chan result, 1)
	go func() { ended <- x.way.act(m) }()
	m.stopped(at)
	pid, err := c.pid(at)
	if err != nil {
		c.t.Fatal(err)
	}
	if victim := strings.TrimSuffix(x.kill, returns); victim != x.kill {
		c.launch(m.node(victim)) // it comes back at that very step
	} else {
		c.kill(m.node(x.kill))
	}
	if x.kill != x.at {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			c.t.Fatal(err)
		}
	}
	want := x.way.finish(m, x, <-ended)
	m.up(c.nodes...)
	now := c.waitOneSource()
	if want != "" && now != want {
		c.t.Errorf("%s: the source is %s; it had to be %s", x, now, want)
	}
	if m.loser != "" {
		m.salvaged(now)
	} else {
		m.f.waitAnswers(50)
	}
	m.f.stop()
	m.f.verify()
	c.noResyncOfKind("full", "compare")
	c.same()
	if c.t.Failed() {
		c.t.FailNow()
	}
	m.f.begin()
}

// Each server is killed at each step of planned switchovers, take-overs by force, returns, roll-backs and ends of split
// brains. When all servers are back there is exactly one source, on the right side of the commit point; no answered write
// is lost (what an administrator gave up is in a salvage); all copies are the same; nothing was copied in full. All cells
// are in `make soak`; otherwise some, chosen by the seed that is printed. One again: -matrix-only=NAME.
func TestCrashMatrix(t *testing.T) {
	seed := *matrixSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1e6
	}
	all := cells()
	total := len(all)
	rng := rand.New(rand.NewPCG(seed, 2))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if *matrixOnly != "" {
		only := regexp.MustCompile(*matrixOnly)
		var some []cell
		for _, x := range all {
			if only.MatchString(x.String()) {
				some = append(some, x)
			}
		}
		all = some
	} else if *matrixCells > 0 {
		all = all[:min(len(all), *matrixCells)]
	}
	t.Logf("seed %d: %d of %d cells", seed, len(all), total)
	if len(all) == 0 {
		t.Fatalf("no cell is called like %q", *matrixOnly)
	}
	next := make(chan cell, len(all))
	for _, x := range all {
		next <- x
	}
	close(next)
	var mu sync.Mutex
	done := 0
	begin := time.Now()
	t.Run("clusters", func(t *testing.T) {
		for i := range min(matrixClusters, len(all)) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for len(next) > 0 { // a cell that fails ends its cluster; the others go on in a new one
					t.Run("cluster", func(t *testing.T) {
						c := demoWith(t, []string{"KEELSON_CRASH_AT=@" + crashFile}, matrixSize)
						m := &matrix{c: c, f: follow(c, 0, followBytes, seed+uint64(i)), rng: rand.New(rand.NewPCG(seed, uint64(i)))}
						for x := range next {
							m.run(x)
							mu.Lock()
							done++
							mu.Unlock()
						}
						m.f.stop()
					})
				}
			})
		}
	})
	t.Logf("%d cells in %s", done, time.Since(begin).Round(time.Second))
	if done < len(all) && !t.Failed() {
		t.Errorf("only %d of %d cells happened", done, len(all))
	}
}
