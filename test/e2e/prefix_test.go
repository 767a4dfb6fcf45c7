package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"keelson/internal/lineage"
)

// sequence is an application that makes one write after the other, each of one to eight blocks with the number of the
// write as their stamp. After a take-over the volume has to be what it was after exactly the first so many of them.
type sequence struct {
	blocks   int
	base     []uint64   // of each block, before the first write
	writes   [][]uint64 // of each block, the numbers of the writes to it, in order
	begun    uint64     // number of the newest write
	answered uint64     // ... that was answered
}

// prefix returns the least and the greatest number of first writes after which the blocks were like that.
func (s *sequence) prefix(content []uint64) (least, most uint64, err error) {
	most = s.begun
	var by, limit int
	for block, stamp := range content {
		i := slices.Index(s.writes[block], stamp)
		if i < 0 && stamp != s.base[block] {
			return 0, 0, fmt.Errorf("block %d has stamp %d, which was never written to it: base %d, writes %v", block, stamp, s.base[block], s.writes[block])
		}
		if i >= 0 && stamp > least {
			least, by = stamp, block
		}
		if i+1 < len(s.writes[block]) && s.writes[block][i+1]-1 < most {
			most, limit = s.writes[block][i+1]-1, block
		}
	}
	if least > most {
		return 0, 0, fmt.Errorf("no prefix of the writes: block %d has write %d, but block %d lacks write %d (it has %d)", by, least, limit, most+1, content[limit])
	}
	return least, most, nil
}

// write goes on writing at the source until the device breaks.
func (s *sequence) write(d device, rng *rand.Rand) {
	buf := make([]byte, stripeBlocks*blockBytes)
	for {
		count := 1 + rng.IntN(stripeBlocks)
		block := rng.IntN(s.blocks - count + 1)
		s.begun++
		for i := range count {
			fillBlock(buf[i*blockBytes:][:blockBytes], int64(block+i), s.begun)
			s.writes[block+i] = append(s.writes[block+i], s.begun)
		}
		if _, err := d.WriteAt(buf[:count*blockBytes], int64(block)*blockBytes); err != nil {
			return
		}
		s.answered = s.begun
	}
}

// stampsAt reads every block through the source; each has to be of one write.
func (s *sequence) stampsAt(d device) ([]uint64, error) {
	p := make([]byte, s.blocks*blockBytes)
	if _, err := d.ReadAt(p, 0); err != nil {
		return nil, err
	}
	content := make([]uint64, s.blocks)
	for block := range content {
		b := p[block*blockBytes:][:blockBytes]
		content[block] = binary.LittleEndian.Uint64(b)
		if err := checkBlock(b, int64(block), content[block:block+1]); err != nil {
			return nil, err
		}
	}
	return content, nil
}

// The source of async mirrors is killed while it is written to, and another server takes over by force: what the volume holds
// then is exactly the first so many writes. What was answered besides is in a salvage when the old source is back.
func TestAsyncTakeOverIsPrefix(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 5))
	c := demo(t, "64MiB", "--mode", "async")
	s := &sequence{blocks: 16 * mib / blockBytes}
	s.base, s.writes = make([]uint64, s.blocks), make([][]uint64, s.blocks)
	source := "a"
	rounds, cut, given := 0, uint64(0), 0
	for begin := time.Now(); rounds < 3 || time.Since(begin) < time.Duration(*killMinutes*float64(time.Minute)/3); rounds++ {
		heir := s.round(t, c, rng, source)
		d, err := c.connect(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		content, err := s.stampsAt(d)
		if err == nil {
			err = d.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		least, most, err := s.prefix(content)
		if err != nil {
			t.Fatalf("round %d, %s took over from %s after %d writes: %v", rounds+1, heir, source, s.answered, err)
		}
		t.Logf("round %d: %s took over from %s: the first %d to %d of %d answered writes", rounds+1, heir, source, least, most, s.answered)
		if most < s.answered {
			cut++
		}
		for _, target := range c.others(heir) {
			c.run(heir, "mirror", "set", c.name, "--target", target, "--rate", "0")
		}
		c.start(source)
		c.waitMirroring(heir, c.others(heir)...)
		given += s.salvaged(c, content, most)
		source = heir
		s.base, s.writes = content, make([][]uint64, s.blocks)
	}
	c.never(lineage.RuleFullAsked, lineage.RuleForeignContent, lineage.RuleSplitBrain)
	c.waitNoLag(source)
	c.same()
	if cut == 0 {
		t.Error("no take-over lost the tail of the writes: the mirrors were never behind")
	}
	t.Logf("%d take-overs, %d of them without the newest writes; %d writes; %d given up blocks were in salvages", rounds, cut, s.begun, given)
}

// round writes, kills the source at a random moment, and has another server take over.
func (s *sequence) round(t *testing.T, c *cluster, rng *rand.Rand, source string) (heir string) {
	t.Helper()
	c.waitMirroring(source, c.others(source)...)
	for _, target := range c.others(source) {
		rate := "2MiB"
		if s.begun > 0 {
			rate = []string{"0", "2MiB", "8MiB"}[rng.IntN(3)]
		}
		c.run(source, "mirror", "set", c.name, "--target", target, "--rate", rate)
	}
	c.waitMirroring(source, c.others(source)...)
	d, err := c.connect(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.write(d, rand.New(rand.NewPCG(rng.Uint64(), 6)))
	}()
	// The moment is random on purpose; a condition would always choose the same one.
	<-time.After(time.Duration(200+rng.IntN(1000)) * time.Millisecond)
	c.kill(source)
	<-ended
	_ = d.Close() // it broke
	heir = c.others(source)[rng.IntN(2)]
	c.wait(heir+" takes over", settleMax, func() error {
		return c.execute(heir, "switchover", c.name, "--to", heir, "--force", "--yes", "--timeout", "60s").err()
	})
	return heir
}

// salvaged fails the test unless the newest answered content of every block that was given up is in a salvage.
func (s *sequence) salvaged(c *cluster, content []uint64, most uint64) (given int) {
	c.t.Helper()
	kept := map[[2]uint64]bool{}
	c.takeSalvages(func(_ string, off int64, data []byte) {
		for ; len(data) >= blockBytes; data, off = data[blockBytes:], off+blockBytes {
			kept[[2]uint64{uint64(off / blockBytes), binary.LittleEndian.Uint64(data)}] = true
		}
	})
	for block := range content {
		answered := slices.DeleteFunc(slices.Clone(s.writes[block]), func(n uint64) bool { return n > s.answered })
		if len(answered) == 0 {
			continue
		}
		newest := answered[len(answered)-1]
		unanswered := s.writes[block][len(s.writes[block])-1] // it may have been done over the newest one
		if newest <= most || newest == content[block] || unanswered == content[block] {
			continue
		}
		given++
		if !kept[[2]uint64{uint64(block), newest}] && !kept[[2]uint64{uint64(block), unanswered}] {
			c.t.Errorf("block %d: write %d was answered, the volume has %d, and no salvage has it", block, newest, content[block])
		}
	}
	return given
}

// The check of a prefix itself.
func TestPrefixChecker(t *testing.T) {
	s := &sequence{base: []uint64{0, 0, 0}, writes: [][]uint64{{1, 4}, {2}, {3, 5}}, begun: 5}
	for _, test := range []struct {
		content     []uint64
		least, most uint64
		ok          bool
	}{
		{[]uint64{4, 2, 5}, 5, 5, true}, {[]uint64{4, 2, 3}, 4, 4, true}, {[]uint64{0, 0, 0}, 0, 0, true},
		{[]uint64{1, 2, 0}, 2, 2, true}, {[]uint64{1, 0, 3}, 0, 0, false}, {[]uint64{1, 2, 5}, 0, 0, false}, {[]uint64{4, 9, 3}, 0, 0, false},
	} {
		least, most, err := s.prefix(test.content)
		if (err == nil) != test.ok || least != test.least || most != test.most {
			t.Errorf("%v: %d to %d, %v", test.content, least, most, err)
		}
	}
}
