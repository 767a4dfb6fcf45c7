package blocktest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"keelson/internal/block"
)

const (
	modelBytesMax  = 2 << 20   // of the device's start that random operations use
	changeBytesMax = 100 << 10 // of one of them
)

// model is what a stretch of the device must hold.
type model struct {
	s    *submitter
	rnd  *rand.Rand
	base int64 // the stretch's offset
	want []byte

	noise []byte // where payload is cut from
}

func newModel(s *submitter, seed uint64, base, n int64) *model {
	m := &model{s: s, rnd: rand.New(rand.NewPCG(seed, 1)), base: base}
	m.want = s.read(base, n)
	m.noise = make([]byte, 2*changeBytesMax)
	for i := range m.noise {
		m.noise[i] = byte(m.rnd.Uint32())
	}
	return m
}

// change returns a random change of the stretch, already made in the model.
func (m *model) change() *block.Request {
	n := 1 + m.rnd.Int64N(min(changeBytesMax, int64(len(m.want))))
	off := m.rnd.Int64N(int64(len(m.want)) - n + 1)
	if m.rnd.IntN(2) == 0 { // as most applications do
		off, n = off&^4095, max(4096, n&^4095)
		n = min(n, int64(len(m.want))-off)
	}
	part := m.want[off : off+n]
	r := &block.Request{Op: block.Write, Off: m.base + off, Len: n}
	switch m.rnd.IntN(6) {
	case 0:
		r.Op = block.Trim
	case 1:
		r.Op = block.Zero
		r.Flags = []block.Flags{0, block.NoHole}[m.rnd.IntN(2)]
	default:
		copy(part, m.noise[m.rnd.IntN(len(m.noise)-len(part)):])
		r = write(m.base+off, part)
	}
	if r.Op != block.Write {
		clear(part)
	}
	if m.rnd.IntN(8) == 0 {
		r.Flags |= block.FUA
	}
	return r
}

// batch returns up to 16 changes, which may overlap.
func (m *model) batch() []*block.Request {
	batch := make([]*block.Request, 1+m.rnd.IntN(16))
	for i := range batch {
		batch[i] = m.change()
	}
	return batch
}

// check compares the stretch.
func (m *model) check() error {
	got := m.s.read(m.base, int64(len(m.want)))
	if i := differ(got, m.want); i >= 0 {
		return fmt.Errorf("at %d the device has %#02x, the model %#02x", m.base+int64(i), got[i], m.want[i])
	}
	return nil
}

// differ is the first index where a and b differ, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func release(batch []*block.Request) {
	for _, r := range batch {
		r.Buf.Release()
	}
}

// checkModel does random batches, whose requests overlap, one after the other.
func checkModel(t *testing.T, s *submitter) {
	m := newModel(s, 1, 0, min(s.size, modelBytesMax))
	for range 40 {
		batch := m.batch()
		s.do(batch...)
		release(batch)
		if m.rnd.IntN(4) == 0 {
			if err := m.check(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.check(); err != nil {
		t.Fatal(err)
	}
}

// checkOrder submits batches that overlap without waiting in between: the last one submitted wins everywhere.
func checkOrder(t *testing.T, s *submitter) {
	m := newModel(s, 2, 4096, 256<<10)
	for range 10 {
		var all []*block.Request
		for range 6 {
			batch := m.batch()
			s.start(batch...)
			all = append(all, batch...)
		}
		s.wait()
		for _, r := range all {
			if r.Err != nil {
				t.Fatalf("%s of %d bytes at %d: %v", r.Op, r.Len, r.Off, r.Err)
			}
		}
		release(all)
		if err := m.check(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkConcurrent has several goroutines, each on a stretch of its own, with neighbours in the same page.
func checkConcurrent(t *testing.T, s *submitter) {
	const workers = 8
	each := (min(s.size, modelBytesMax)-1)/workers | 1 // odd: stretches share pages and regions
	if each*workers > s.size {
		each -= 2
	}
	var group sync.WaitGroup
	failed := make(chan error, workers)
	for w := range int64(workers) {
		mine := s.another()
		m := newModel(mine, uint64(10+w), w*each, each)
		group.Go(func() { failed <- m.churn(mine, 8) })
	}
	group.Wait()
	for range workers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// churn does random batches without ending the test, since it runs in a goroutine of its own.
func (m *model) churn(s *submitter, rounds int) error {
	for range rounds {
		batch := m.batch()
		if m.rnd.IntN(4) == 0 {
			batch = append(batch, &block.Request{Op: block.Flush})
		}
		s.start(batch...)
		s.wait()
		for _, r := range batch {
			if r.Err != nil {
				return fmt.Errorf("%s of %d bytes at %d: %w", r.Op, r.Len, r.Off, r.Err)
			}
		}
		release(batch)
		if err := m.check(); err != nil {
			return err
		}
	}
	s.checkOnce()
	return nil
}
