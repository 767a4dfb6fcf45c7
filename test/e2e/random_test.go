package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Random switchovers under load from an application that follows the source, with mirrors paused, continued, broken
// and their servers killed and restarted at random, and fio's verification in between: no wrong content, no resync of
// kind full, and in the end every copy the same. -switchovers=200 is the long form.
func TestRandomSwitchovers(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := demo(t, "128MiB")
	s := &storm{c: c, rng: rand.New(rand.NewPCG(seed, 1)), source: "a", quiet: map[string]string{}}
	f := follow(c, 0, 32*mib, seed)
	const fioEvery = 10
	for done := 0; done < *switchovers; done++ {
		for range s.rng.IntN(3) {
			s.disturb()
		}
		job := []string{"--rw=randwrite", "--bs=8k", "--offset=64m", "--size=16m", "--iodepth=8", "--verify=crc32c", fmt.Sprintf("--randseed=%d", done+1)}
		if done%fioEvery == 0 {
			c.fio(s.source, append(job, "--do_verify=1")...)
		}
		s.switchover()
		if done%fioEvery == 0 { // what fio wrote at the old source it reads at the new one
			c.fio(s.source, append(job, "--verify_only=1")...)
		}
		f.waitAnswers(20)
		c.noResyncOfKind("full", "compare")
	}
	s.calm()
	c.waitOneSource()
	f.stop()
	f.verify()
	c.noResyncOfKind("full", "compare")
	c.same()
	t.Logf("%d switchovers, %d disturbances", *switchovers, s.disturbed)
}

// storm disturbs mirrors and switches over.
type storm struct {
	c         *cluster
	rng       *rand.Rand
	source    string
	quiet     map[string]string // target: paused | broken
	disturbed int
}

// disturb does something to one mirror or its target.
func (s *storm) disturb() {
	target := s.c.others(s.source)[s.rng.IntN(2)]
	s.disturbed++
	if s.quiet[target] != "" {
		s.again(target)
		return
	}
	switch s.rng.IntN(5) {
	case 0:
		s.c.run(s.source, "mirror", "pause", s.c.name, "--target", target)
		s.quiet[target] = "paused"
	case 1:
		s.c.run(s.source, "mirror", "break", s.c.name, "--target", target)
		s.quiet[target] = "broken"
	case 2: // the stream is torn and comes back
		s.c.kill(target)
		s.c.start(target)
	case 3:
		s.c.stop(target)
		s.c.start(target)
	default:
		s.c.run(s.source, "mirror", "pause", s.c.name, "--target", target)
		s.c.run(s.source, "mirror", "continue", s.c.name, "--target", target)
	}
}

// again makes a paused or broken mirror work; the command is asked at any server.
func (s *storm) again(target string) {
	s.c.run(s.c.nodes[s.rng.IntN(3)], "mirror", "continue", s.c.name, "--target", target)
	delete(s.quiet, target)
}

// switchover to a random other server, asked at a random one. One that is paused or broken is refused first.
func (s *storm) switchover() {
	s.c.t.Helper()
	to := s.c.others(s.source)[s.rng.IntN(2)]
	if s.quiet[to] != "" {
		s.c.refused("", s.source, "switchover", s.c.name, "--to", to, "--yes")
		s.again(to)
	}
	s.c.waitMirroring(s.source, to)
	s.c.run(s.c.nodes[s.rng.IntN(3)], "switchover", s.c.name, "--to", to, "--yes")
	s.source = to
	s.c.waitMirroring(to)
}

// calm ends all disturbances.
func (s *storm) calm() {
	for target := range s.quiet {
		s.again(target)
	}
}
