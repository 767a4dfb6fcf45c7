package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// ancestry is an application that survives careless administrators: take-overs may put it back, or onto another side of
// a split brain. Before each write it reads the block, on the same connection, so that it knows which write each write
// replaced. Each block has one writer. The writes of a block are therefore a tree: as long as some replica or salvage
// holds a write or one of its descendants, it was not lost.
type ancestry struct {
	c      *cluster
	first  int64 // byte offset of block 0
	blocks int
	stamps atomic.Uint64

	answered, unanswered, connects atomic.Int64

	mu    sync.Mutex
	deeds map[uint64]deed // of writers that have ended, by stamp

	cancel context.CancelFunc
	ended  sync.WaitGroup
	failed chan error // the first error of each writer
}

// deed is one write.
type deed struct {
	block    int
	parent   uint64 // the stamp that it replaced, 0 for none
	answered bool
	at       time.Time
}

const ancestryWriters = 4

// descend starts an ancestry in [first, first+size) of the volume, which must be zero there.
func descend(c *cluster, first, size int64, seed uint64) *ancestry {
	ctx, cancel := context.WithCancel(context.Background())
	a := &ancestry{c: c, first: first, blocks: int(size / blockBytes), deeds: map[uint64]deed{}, cancel: cancel, failed: make(chan error, ancestryWriters)}
	for w := range ancestryWriters {
		a.ended.Go(func() {
			own := &lineOfOne{a: a, w: w, rng: rand.New(rand.NewPCG(seed, uint64(w))), deeds: map[uint64]deed{}}
			if err := own.run(ctx); err != nil {
				a.failed <- fmt.Errorf("writer %d: %w", w, err)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			for stamp, d := range own.deeds {
				a.deeds[stamp] = d
			}
		})
	}
	c.t.Cleanup(a.halt)
	return a
}

// halt ends the writers and waits for them.
func (a *ancestry) halt() {
	a.cancel()
	a.ended.Wait()
}

// lineOfOne is one writer.
type lineOfOne struct {
	a     *ancestry
	w     int
	rng   *rand.Rand
	deeds map[uint64]deed
}

// run writes until ctx ends. Errors of requests are what take-overs do; content of nobody is an error.
func (l *lineOfOne) run(ctx context.Context) error {
	buf := make([]byte, blockBytes)
	for ctx.Err() == nil {
		d, err := l.a.c.connect(ctx)
		if err != nil || d == nil {
			return err
		}
		l.a.connects.Add(1)
		var hung atomic.Bool
		for err == nil && ctx.Err() == nil {
			late := time.AfterFunc(requestMax, func() {
				hung.Store(true)
				_ = d.Close()
			})
			err = l.one(d, buf)
			late.Stop()
		}
		_ = d.Close() // a broken connection has nothing more to say
		var wrong *wrongContent
		switch {
		case hung.Load():
			return errHung
		case errors.As(err, &wrong):
			return err
		}
	}
	return nil
}

// one reads a block and writes it.
func (l *lineOfOne) one(d device, buf []byte) error {
	a := l.a
	block := l.rng.IntN(a.blocks/ancestryWriters)*ancestryWriters + l.w
	off := a.first + int64(block)*blockBytes
	if _, err := d.ReadAt(buf, off); err != nil {
		return err
	}
	parent, err := l.known(buf, block)
	if err != nil {
		return &wrongContent{err}
	}
	stamp := a.stamps.Add(1)
	fillBlock(buf, int64(block), stamp)
	_, err = d.WriteAt(buf, off)
	l.deeds[stamp] = deed{block: block, parent: parent, answered: err == nil, at: time.Now()}
	if err != nil {
		a.unanswered.Add(1)
		return err
	}
	a.answered.Add(1)
	return nil
}

// known is the stamp of a block, which has to be whole and of a write of this block.
func (l *lineOfOne) known(p []byte, block int) (uint64, error) {
	stamp := binary.LittleEndian.Uint64(p)
	if err := checkBlock(p, int64(block), []uint64{stamp}); err != nil {
		return 0, err
	}
	if d, ok := l.deeds[stamp]; stamp != 0 && (!ok || d.block != block) {
		return 0, fmt.Errorf("block %d has stamp %d, which was never written to it", block, stamp)
	}
	return stamp, nil
}

// stop ends the writers and fails the test if one read something that nobody wrote.
func (a *ancestry) stop() {
	a.c.t.Helper()
	a.halt()
	select {
	case err := <-a.failed:
		a.c.t.Fatal(err)
	default:
	}
}

// volume reads the stamp of every block through the source.
func (a *ancestry) volume() map[uint64]bool {
	a.c.t.Helper()
	d, err := a.c.connect(context.Background())
	if err != nil {
		a.c.t.Fatal(err)
	}
	defer d.Close()
	p := make([]byte, a.blocks*blockBytes)
	if _, err := d.ReadAt(p, a.first); err != nil {
		a.c.t.Fatal(err)
	}
	found := map[uint64]bool{}
	a.collect(a.first, p, found)
	return found
}

// collect adds the stamps of the ancestry's blocks in a stretch of the volume at off.
func (a *ancestry) collect(off int64, p []byte, found map[uint64]bool) {
	a.c.t.Helper()
	for ; len(p) >= blockBytes; p, off = p[blockBytes:], off+blockBytes {
		block := (off - a.first) / blockBytes
		if off < a.first || block >= int64(a.blocks) {
			continue
		}
		stamp := binary.LittleEndian.Uint64(p)
		if err := checkBlock(p[:blockBytes], block, []uint64{stamp}); err != nil {
			a.c.t.Errorf("content of nobody: %v", err)
		}
		found[stamp] = true
	}
}

// lost are the answered writes of which neither found, nor any descendant, was found; the newest of each line.
func lost(deeds map[uint64]deed, found map[uint64]bool) []uint64 {
	alive := map[uint64]bool{0: true}
	for stamp := range found {
		for ; !alive[stamp]; stamp = deeds[stamp].parent {
			alive[stamp] = true
		}
	}
	var missing []uint64
	for stamp, d := range deeds {
		if d.answered && !alive[stamp] {
			missing = append(missing, stamp)
		}
	}
	return missing
}
