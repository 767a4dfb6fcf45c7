package volume

import (
	"context"
	"errors"
	"sync"

	"keelson/internal/block"
	"keelson/internal/wire"
)

// pipe is one end of a stream in memory: what is queued at one end is read, in order, at the other.
type pipe struct {
	out, in *lane
	mu      sync.Mutex
	err     error
	done    chan struct{}
	other   *pipe
	sent    int64
}

type lane struct {
	mu     sync.Mutex
	cond   sync.Cond
	frames []frame
	closed bool
	stall  bool // nothing arrives while it is set
	bytes  int64
}

type frame struct {
	h    wire.Header
	body *block.Buffer
}

var errCut = errors.New("cut")

func newPipe() (*pipe, *pipe) {
	a, b := &lane{}, &lane{}
	a.cond.L, b.cond.L = &a.mu, &b.mu
	x := &pipe{out: a, in: b, done: make(chan struct{})}
	y := &pipe{out: b, in: a, done: make(chan struct{}), other: x}
	x.other = y
	return x, y
}

func (p *pipe) Queue(h wire.Header, body *block.Buffer, small []byte) {
	if p.Err() != nil {
		return
	}
	f := frame{h: h}
	if body != nil {
		f.body = block.NewBuffer(len(body.Bytes))
		copy(f.body.Bytes, body.Bytes)
	} else if len(small) > 0 {
		f.body = block.NewBuffer(len(small))
		copy(f.body.Bytes, small)
	}
	if f.body != nil {
		f.h.Body = uint32(len(f.body.Bytes))
		if f.h.BodyCRC == 0 {
			f.h.BodyCRC = wire.Checksum(f.body.Bytes)
		}
	}
	if err := f.h.Check(); err != nil {
		panic(err)
	}
	p.out.mu.Lock()
	p.out.frames = append(p.out.frames, f)
	p.out.bytes += int64(f.h.Body) + wire.HeaderBytes
	p.sent += int64(f.h.Body) + wire.HeaderBytes
	p.out.cond.Broadcast()
	p.out.mu.Unlock()
}

func (p *pipe) TryFlush() {}

func (p *pipe) Read() (wire.Header, *block.Buffer, error) {
	l := p.in
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed && (len(l.frames) == 0 || l.stall) {
		l.cond.Wait()
	}
	if l.closed {
		return wire.Header{}, nil, errCut
	}
	f := l.frames[0]
	l.frames = l.frames[1:]
	l.bytes -= int64(f.h.Body) + wire.HeaderBytes
	l.cond.Broadcast()
	if f.body != nil {
		if err := f.h.CheckBody(f.body.Bytes); err != nil {
			return wire.Header{}, nil, err
		}
	}
	return f.h, f.body, nil
}

func (p *pipe) Buffered() bool {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	return len(p.in.frames) > 0 && !p.in.stall
}

func (p *pipe) QueuedBytes() int64 {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.bytes
}

func (p *pipe) WaitRoom(ctx context.Context, below int64) error {
	stop := context.AfterFunc(ctx, func() {
		p.out.mu.Lock()
		p.out.cond.Broadcast()
		p.out.mu.Unlock()
	})
	defer stop()
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	for p.out.bytes >= below && !p.out.closed && ctx.Err() == nil {
		p.out.cond.Wait()
	}
	if p.out.closed {
		return errCut
	}
	return ctx.Err()
}

func (p *pipe) SetRate(int64) {}
func (p *pipe) Sent() int64 {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.sent
}

// stall keeps what this end sends from arriving.
func (p *pipe) stall(on bool) {
	p.out.mu.Lock()
	p.out.stall = on
	p.out.cond.Broadcast()
	p.out.mu.Unlock()
}

func (p *pipe) Close(reason error) error {
	for _, end := range []*pipe{p, p.other} {
		end.mu.Lock()
		if end.err == nil {
			end.err = errors.Join(errCut, reason)
			close(end.done)
		}
		end.mu.Unlock()
	}
	for _, l := range []*lane{p.out, p.in} {
		l.mu.Lock()
		l.closed = true
		l.cond.Broadcast()
		l.mu.Unlock()
	}
	return nil
}

func (p *pipe) Done() <-chan struct{} { return p.done }

func (p *pipe) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
