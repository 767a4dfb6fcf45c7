package loop_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	randomFor  = flag.Duration("random-for", 10*time.Second, "how long TestRandomOperations goes on")
	randomSeed = flag.Uint64("random-seed", 0, "its seed; 0: another one each time")
)

// stretchBytes is what the random operations use of the device.
const stretchBytes = 8 << 20

// random does what fsx does to a file to a loop device: reads, writes, trims, zeroing and flushes of any aligned size, past
// the page cache and through it, each compared with a model.
type random struct {
	*rand.Rand
	direct, cached *os.File
	model          []byte
	memory         []byte
	log            []string
}

// TestRandomOperations is the short form; make soak has the long one.
func TestRandomOperations(t *testing.T) {
	seed := *randomSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	s := start(t, 512)
	cached, err := os.OpenFile(s.device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer cached.Close()
	direct := openDirect(t, s.device, 0)
	defer direct.Close()
	r := &random{Rand: rand.New(rand.NewPCG(seed, 1)), direct: direct, cached: cached, model: make([]byte, stretchBytes), memory: aligned(1 << 20)}
	n := 0
	for end := time.Now().Add(*randomFor); time.Now().Before(end); n++ {
		if err := r.step(); err != nil {
			t.Fatalf("seed %d, operation %d: %v; the last ones: %v", seed, n, err, r.log[max(0, len(r.log)-20):])
		}
	}
	if err := r.check(0, stretchBytes); err != nil {
		t.Fatalf("seed %d, at the end: %v", seed, err)
	}
	counts := s.tell("")
	t.Logf("%d operations; the device saw %v", n, counts)
	for _, op := range []string{"read", "write", "trim", "write-zeroes", "flush"} {
		if counts[op] == 0 {
			t.Errorf("no %s", op)
		}
	}
}

func (r *random) step() error {
	n := (1 + r.IntN(128)) * 512
	if r.IntN(20) == 0 {
		n = (1 + r.IntN(2048)) * 512
	}
	off := int64(r.IntN((stretchBytes-n)/512+1)) * 512
	span := [2]uint64{uint64(off), uint64(n)}
	part := r.model[off : off+int64(n)]
	op := r.IntN(20)
	r.log = append(r.log[max(0, len(r.log)-40):], fmt.Sprintf("op %d at %d for %d", op, off, n))
	var err error
	switch {
	case op < 8: // a write past the cache
		r.fill(part)
		copy(r.memory[:n], part)
		_, err = r.direct.WriteAt(r.memory[:n], off)
	case op < 10: // a write of any size through the cache
		part = part[:1+r.IntN(n)]
		r.fill(part)
		_, err = r.cached.WriteAt(part, off)
	case op < 12:
		clear(part)
		err = ioctl(r.direct, unix.BLKDISCARD, &span)
	case op < 14:
		clear(part)
		err = ioctl(r.direct, unix.BLKZEROOUT, &span)
	case op < 15:
		err = r.direct.Sync()
	default:
		err = r.check(off, n)
	}
	return err
}

func (r *random) fill(p []byte) {
	x := r.Uint64() | 1
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x)
	}
}

// check compares a stretch, as one reads past the cache or through it.
func (r *random) check(off int64, n int) error {
	want := r.model[off : off+int64(n)]
	got := make([]byte, n)
	f := r.cached
	if r.IntN(2) == 0 && n <= len(r.memory) {
		got, f = r.memory[:n], r.direct
	}
	if _, err := f.ReadAt(got, off); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				return fmt.Errorf("at %d there is %#02x, not %#02x", off+int64(i), got[i], want[i])
			}
		}
	}
	return nil
}
