package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/frontend/nbd/nbdclient"
)

const (
	historyClients = 6
	// windowBlocks are used at the same time by all clients, for windowOps requests; then they move on. The cost of
	// checking grows with the square of the requests of one block.
	windowBlocks = 16
	windowOps    = 16_000
)

// historian is a set of applications that read and write the same blocks at the same time, each block as one register,
// and note when each request began and ended. What they saw is checked as a whole (linearizable).
type historian struct {
	c      *cluster
	first  int64 // byte offset of block 0
	blocks int
	begin  time.Time
	stamps atomic.Uint64
	count  atomic.Int64 // of requests; says which window is in use

	mu  sync.Mutex
	ops []op // of clients that have ended

	cancel context.CancelFunc
	ended  sync.WaitGroup
	failed chan error // the first error of each client
}

// op is one request of a history: one block read or written.
type op struct {
	client, block int
	write         bool
	stamp         uint64 // written, or read
	torn          string // of a read: what was seen was of no single write
	answered      bool
	call, ret     time.Duration // since the historian began
}

func (o op) String() string {
	what := fmt.Sprintf("reads %d", o.stamp)
	switch {
	case o.write && !o.answered:
		what = fmt.Sprintf("writes %d, no answer", o.stamp)
	case o.write:
		what = fmt.Sprintf("writes %d", o.stamp)
	case !o.answered:
		what = "reads, no answer"
	case o.torn != "":
		what = "reads a mixture: " + o.torn
	}
	return fmt.Sprintf("%12.6f - %12.6f s  client %d, block %d: %s", o.call.Seconds(), o.ret.Seconds(), o.client, o.block, what)
}

// record starts a historian in [first, first+size) of the volume, which must be zero there.
func record(c *cluster, first, size int64, seed uint64) *historian {
	ctx, cancel := context.WithCancel(context.Background())
	h := &historian{c: c, first: first, blocks: int(size / blockBytes), begin: time.Now(), cancel: cancel, failed: make(chan error, 2*historyClients)}
	for client := range historyClients {
		h.ended.Go(func() {
			ops, err := h.client(ctx, client, rand.New(rand.NewPCG(seed, uint64(client))))
			if err != nil {
				h.failed <- fmt.Errorf("client %d: %w", client, err)
			}
			h.mu.Lock()
			h.ops = append(h.ops, ops...)
			h.mu.Unlock()
		})
	}
	c.t.Cleanup(h.halt)
	return h
}

// halt ends the clients and waits for them.
func (h *historian) halt() {
	h.cancel()
	h.ended.Wait()
}

// client uses the volume until ctx ends.
func (h *historian) client(ctx context.Context, client int, rng *rand.Rand) (ops []op, err error) {
	buf := make([]byte, blockBytes)
	for ctx.Err() == nil {
		d, err := h.c.connect(ctx)
		if err != nil || d == nil {
			return ops, err
		}
		for err == nil && ctx.Err() == nil {
			var o op
			o, err = h.request(d, client, rng, buf)
			ops = append(ops, o)
		}
		_ = d.Close() // a broken connection has nothing more to say
		if errors.Is(err, errHung) {
			return ops, err
		}
	}
	return ops, nil
}

var errHung = fmt.Errorf("a request got no answer within %s", requestMax)

// request reads or writes one block of the window, now and then one of an earlier window.
func (h *historian) request(d device, client int, rng *rand.Rand, buf []byte) (op, error) {
	window := int(h.count.Add(1)/windowOps) % (h.blocks / windowBlocks)
	o := op{client: client, block: window*windowBlocks + rng.IntN(windowBlocks), write: rng.IntN(2) == 0}
	if window > 0 && rng.IntN(16) == 0 {
		o.block, o.write = rng.IntN(window*windowBlocks), false
	}
	return h.do(d, o, rng.IntN(8) == 0, buf)
}

// do makes the request and completes what is noted of it.
func (h *historian) do(d device, o op, fua bool, buf []byte) (op, error) {
	off := h.first + int64(o.block)*blockBytes
	var hung atomic.Bool
	late := time.AfterFunc(requestMax, func() {
		hung.Store(true)
		_ = d.Close()
	})
	defer late.Stop()
	var err error
	if o.write {
		var flags []nbdclient.Flag
		if fua {
			flags = append(flags, nbdclient.FUA)
		}
		o.stamp = h.stamps.Add(1)
		fillBlock(buf, int64(o.block), o.stamp)
		o.call = time.Since(h.begin)
		_, err = d.WriteAt(buf, off, flags...)
	} else {
		o.call = time.Since(h.begin)
		_, err = d.ReadAt(buf, off)
	}
	o.ret = time.Since(h.begin)
	o.answered = err == nil
	if o.answered && !o.write {
		o.stamp = binary.LittleEndian.Uint64(buf)
		if bad := checkBlock(buf, int64(o.block), []uint64{o.stamp}); bad != nil {
			o.torn = mixture(buf)
		}
	}
	if hung.Load() {
		err = errHung
	}
	return o, err
}

// mixture lists the stamps of the sectors of a block.
func mixture(p []byte) string {
	var out strings.Builder
	for s := 0; s < len(p); s += sectorBytes {
		fmt.Fprintf(&out, " %d", binary.LittleEndian.Uint64(p[s:]))
	}
	return strings.TrimSpace(out.String())
}

// stop ends the clients, reads every block once more through the source and returns the whole history.
func (h *historian) stop() []op {
	h.c.t.Helper()
	h.halt()
	select {
	case err := <-h.failed:
		h.c.t.Error(err)
	default:
	}
	d, err := h.c.connect(context.Background())
	if err != nil {
		h.c.t.Fatal(err)
	}
	defer d.Close()
	buf := make([]byte, blockBytes)
	for block := range h.blocks {
		o, err := h.do(d, op{client: historyClients, block: block}, false, buf)
		if err != nil {
			h.c.t.Fatalf("the last read of block %d: %v", block, err)
		}
		h.ops = append(h.ops, o)
	}
	return h.ops
}
