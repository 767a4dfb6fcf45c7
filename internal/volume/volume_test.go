package volume

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
	"keelson/internal/wire"
)

// waitMax is how long a test waits for a condition; far more than anything takes.
const waitMax = 20 * time.Second

// server is one replica on a file system in memory, with a shell that only takes note of events.
type server struct {
	t    testing.TB
	fs   *vfs.Mem
	name string
	v    *Volume
	lim  Limits
	omit omission

	mu     sync.Mutex
	cond   sync.Cond
	events []mirror.Event
	stays  bool // nobody closes the device when the disk fails: the test says what happens
	closes sync.WaitGroup
	opened func(*Volume)
}

func newServer(t *testing.T, name string, size int64) *server {
	s := &server{t: t, fs: vfs.NewMem(1), name: name, lim: DefaultLimits}
	s.cond.L = &s.mu
	s.lim.CheckpointEvery = 50 * time.Millisecond
	h := intentlog.Header{Cluster: "c", Volume: "00112233445566778899aabbccddeeff", Name: "data", Node: name}
	h.Role, h.Record = lineage.RoleTarget, lineage.Record{Members: []string{"a"}}
	if err := s.fs.MkdirAll("/s"); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(s.options(), New{Header: h, Path: "/s/data.img", SizeBytes: size}); err != nil {
		t.Fatal(err)
	}
	s.open()
	t.Cleanup(s.close)
	return s
}

func (s *server) options() Options {
	var opened *Volume // of this Open: a crashed one may still tell
	s.opened = func(v *Volume) {
		s.mu.Lock()
		opened = v
		s.mu.Unlock()
	}
	return Options{FS: s.fs, Dir: "/s/log", Limits: s.lim, omit: s.omit, Log: slog.New(slog.DiscardHandler), Post: func(e mirror.Event) {
		s.mu.Lock()
		s.events = append(s.events, e)
		s.cond.Broadcast()
		if is[mirror.DiskFailed](e) && !s.stays { // as package mirror does without a target to serve from
			if v := opened; v != nil {
				s.closes.Go(func() { v.CloseDevice("the disk failed") })
			}
		}
		s.mu.Unlock()
	}}
}

func (s *server) open() {
	v, err := Open(s.options())
	if err != nil {
		s.t.Fatal(err)
	}
	s.v = v
	s.opened(v)
}

func (s *server) close() {
	s.closes.Wait()
	if s.v != nil {
		if err := s.v.Close(); err != nil {
			s.t.Errorf("%s: close: %v", s.name, err)
		}
		s.v = nil
	}
}

// wait waits for an event that match holds for, and takes everything up to it.
func (s *server) wait(what string, match func(mirror.Event) bool) mirror.Event {
	s.t.Helper()
	timer := time.AfterFunc(waitMax, func() { s.mu.Lock(); s.cond.Broadcast(); s.mu.Unlock() })
	defer timer.Stop()
	end := time.Now().Add(waitMax)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if i := slices.IndexFunc(s.events, match); i >= 0 {
			e := s.events[i]
			s.events = s.events[i+1:]
			return e
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s: no %s; events: %+v", s.name, what, s.events)
		}
		s.cond.Wait()
	}
}

func is[E mirror.Event](e mirror.Event) bool { _, ok := e.(E); return ok }

// serve makes the server a source in that term.
func (s *server) serve(term uint64, required ...string) {
	s.t.Helper()
	standing := s.v.Header().Standing
	standing.Role = lineage.RoleSource
	standing.Promised = lineage.Term{N: term, Node: s.name}
	standing.Served = standing.Promised
	standing.Record = lineage.Record{Epoch: lineage.Epoch{Term: standing.Promised}, Members: append([]string{s.name}, required...)}
	if err := s.v.BecomeSource(standing, false); err != nil {
		s.t.Fatal(err)
	}
	s.v.Require(required, 1)
	s.v.OpenDevice()
}

var sessions uint64

// connect begins a session from s to t and waits until the target is in step. The source's end of the stream comes back.
func connect(s, t *server, m lineage.Member) *pipe {
	p := begin(s, t, m, false)
	s.wait("InStep", is[mirror.InStep])
	return p
}

func begin(s, t *server, m lineage.Member, full bool) *pipe {
	s.t.Helper()
	return beginVia(s, t, m, full, func(p *pipe) Stream { return p })
}

// beginVia puts something between the pipe and the target.
func beginVia(s, t *server, m lineage.Member, full bool, via func(*pipe) Stream) *pipe {
	s.t.Helper()
	return beginBetween(s, t, m, full, func(p *pipe) Stream { return p }, via)
}

// beginBetween puts something at both ends of the pipe.
func beginBetween(s, t *server, m lineage.Member, full bool, mine, via func(*pipe) Stream) *pipe {
	s.t.Helper()
	m.Node = t.name
	x, y := newPipe()
	theirs, own := t.v.Own(), s.v.Own()
	agreed := lineage.CutBack(theirs.History, theirs.Position, own.History, own.Position)
	if err := t.v.Attach(via(y), SessionOptions{From: s.name, History: own.History, Position: own.Position, Tenure: s.v.Tenure(), Agreed: agreed, Kept: theirs.History[:theirs.History.Find(agreed.Gen)+1]}); err != nil {
		s.t.Fatal(err)
	}
	sessions++
	reply := wire.HelloReply{History: theirs.History, Pages: t.v.Pages()}
	if err := s.v.StartLink(mine(x), LinkOptions{Target: t.name, Session: sessions, Member: m, Full: full, Reply: reply}); err != nil {
		s.t.Fatal(err)
	}
	return x
}

func content(t testing.TB, s *server) []byte {
	t.Helper()
	p := make([]byte, s.v.Size())
	if _, err := s.v.disk.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

func same(t *testing.T, servers ...*server) {
	t.Helper()
	first := content(t, servers[0])
	for _, s := range servers[1:] {
		if other := content(t, s); !bytes.Equal(first, other) {
			for i := range first {
				if first[i] != other[i] {
					t.Fatalf("%s and %s differ from byte %d on", servers[0].name, s.name, i)
				}
			}
		}
	}
}

func flush(t *testing.T, d block.Device) {
	t.Helper()
	if err := do(d, block.Flush, 0, 0, 0, nil); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, d block.Device, off int64, p []byte) {
	t.Helper()
	if err := do(d, block.Write, 0, off, int64(len(p)), p); err != nil {
		t.Fatal(err)
	}
}

func random(seed int64, n int) []byte {
	p := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(p)
	return p
}

// checked is a volume whose end is a comparison of all copies.
type checked struct {
	block.Device
	end func() error
}

func (c checked) Close() error { return c.end() }

// asker waits for one request.
type asker chan struct{}

func (a asker) Complete(*block.Request) { close(a) }
func (a asker) Flush()                  {}

func do(d block.Device, op block.Op, flags block.Flags, off, n int64, p []byte) error {
	done := make(asker)
	r := &block.Request{Op: op, Flags: flags, Off: off, Len: n, By: done}
	if op == block.Write {
		r.Buf = block.NewBuffer(len(p))
		copy(r.Buf.Bytes, p)
		r.Len = int64(len(p))
		defer r.Buf.Release()
	}
	d.Submit([]*block.Request{r})
	<-done
	return r.Err
}

func TestConformance(t *testing.T) {
	for _, targets := range []int{0, 2} {
		t.Run(fmt.Sprintf("%d targets", targets), func(t *testing.T) {
			blocktest.Run(t, func() block.Device {
				a := newServer(t, "a", 8<<20)
				var names []string
				var others []*server
				for i := range targets {
					others = append(others, newServer(t, string(rune('b'+i)), 8<<20))
					names = append(names, others[i].name)
				}
				a.serve(1, names...)
				for _, o := range others {
					connect(a, o, lineage.Member{})
				}
				return checked{a.v, func() error {
					flush(t, a.v)
					same(t, append(others, a)...)
					return nil
				}}
			})
		})
	}
}

func TestResyncSendsOnlyWhatDiffers(t *testing.T) {
	a, b := newServer(t, "a", 16<<20), newServer(t, "b", 16<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 1<<20))
	connect(a, b, lineage.Member{})
	same(t, a, b)
	r := a.v.Status(time.Now()).Links["b"].Resync
	if r == nil || r.Progress.Sent != 1<<20 || r.Kind != "partial" || !r.Done {
		t.Fatalf("first resync: %+v", r)
	}
	a.v.Hangup("b", errCut)
	a.wait("LinkDown", is[mirror.LinkDown])
	b.wait("SessionEnded", is[mirror.SessionEnded])
	put(t, a.v, 4<<20, random(2, 4096))
	put(t, a.v, 5<<20+100, random(3, 300<<10))
	connect(a, b, lineage.Member{})
	same(t, a, b)
	if r = a.v.Status(time.Now()).Links["b"].Resync; r.Progress.Sent != 6*64<<10 || r.Kind != "partial" {
		t.Fatalf("second resync: %+v", r)
	}
}

func TestForeignContentIsCompared(t *testing.T) {
	a, b := newServer(t, "a", 16<<20), newServer(t, "b", 16<<20)
	p := random(4, 16<<20)
	a.serve(1)
	put(t, a.v, 0, p)
	b.serve(1)
	q := slices.Clone(p)
	copy(q[3<<20:], "something else")
	put(t, b.v, 0, q)
	b.v.CloseDevice("test")
	b.v.BecomeTarget()
	connect(a, b, lineage.Member{})
	same(t, a, b)
	if r := a.v.Status(time.Now()).Links["b"].Resync; r.Kind != "compare" || r.Progress.Sent != 64<<10 {
		t.Fatalf("%+v", r)
	}
}

// TestWritersDuringResync: writers go on while a resync walks, sessions are cut and begin again; at the end both are equal.
func TestWritersDuringResync(t *testing.T) {
	a, b, c := newServer(t, "a", 32<<20), newServer(t, "b", 32<<20), newServer(t, "c", 32<<20)
	a.serve(1)
	put(t, a.v, 0, random(5, 32<<20))
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			rng := rand.New(rand.NewSource(int64(w)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				off, n := rng.Int63n(32<<20-200<<10), 1+rng.Int63n(200<<10)
				var err error
				switch rng.Intn(8) {
				case 0:
					err = do(a.v, block.Trim, 0, off, n, nil)
				case 1:
					err = do(a.v, block.Zero, block.FUA, off, n, nil)
				case 2:
					err = do(a.v, block.Flush, 0, 0, 0, nil)
				default:
					err = do(a.v, block.Write, 0, off, n, random(rng.Int63(), int(n)))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for range 5 {
		p, q := begin(a, b, lineage.Member{}, false), begin(a, c, lineage.Member{Mode: lineage.Async}, true)
		for range 2 {
			a.wait("InStep", is[mirror.InStep])
		}
		_ = p.Close(errCut)
		_ = q.Close(errCut)
		for range 2 {
			a.wait("LinkDown", is[mirror.LinkDown])
		}
		b.wait("SessionEnded", is[mirror.SessionEnded])
		c.wait("SessionEnded", is[mirror.SessionEnded])
	}
	connect(a, b, lineage.Member{})
	connect(a, c, lineage.Member{Mode: lineage.Async})
	close(stop)
	writers.Wait()
	flush(t, a.v)
	waitFor(t, "c has everything", func() bool { return a.v.Status(time.Now()).Links["c"].LagBytes == 0 })
	same(t, a, b, c)
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(waitMax); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited too long: " + what)
		}
	}
}

// TestSyncWaits: a sync answer waits for the target; an async one does not; a member that is lost is waited for until the
// record without it was said to be durable.
func TestSyncWaits(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.serve(1, "b")
	p := connect(a, b, lineage.Member{})
	p.stall(true)
	done := make(chan error, 1)
	go func() { done <- do(a.v, block.Write, 0, 0, 4096, random(1, 4096)) }()
	waitFor(t, "the write is on its way", func() bool { return p.QueuedBytes() > 4096 })
	select {
	case err := <-done:
		t.Fatalf("answered without the target: %v", err)
	default:
	}
	if lost := a.v.Waiting(); lost != nil {
		t.Fatalf("waits for lost members %v", lost)
	}
	_ = p.Close(errCut)
	e := a.wait("AnswersWait", is[mirror.AnswersWait]).(mirror.AnswersWait)
	if !slices.Equal(e.Members, []string{"b"}) {
		t.Fatal(e)
	}
	select {
	case err := <-done:
		t.Fatalf("answered without the member before the record shrank: %v", err)
	default:
	}
	a.v.Require(nil, 1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAsyncDoesNotWait(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.serve(1, "b")
	p := connect(a, b, lineage.Member{Mode: lineage.Async})
	p.stall(true)
	put(t, a.v, 0, random(1, 4096))
	flush(t, a.v)
	if l := a.v.Status(time.Now()).Links["b"]; l.LagBytes != 4096 || l.LagTime <= 0 {
		t.Fatalf("%+v", l)
	}
	p.stall(false)
	waitFor(t, "no lag", func() bool { return a.v.Status(time.Now()).Links["b"].LagBytes == 0 })
	same(t, a, b)
}

// TestSlowTargetIsDropped: a sync target that says nothing stops the source for its limit and no longer.
func TestSlowTargetIsDropped(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.close()
	a.lim.SyncTimeout = 300 * time.Millisecond
	a.open()
	a.serve(1, "b")
	p := connect(a, b, lineage.Member{})
	p.stall(true)
	began := time.Now()
	go func() {
		a.wait("LinkDown", is[mirror.LinkDown])
		a.v.Require(nil, 1)
	}()
	put(t, a.v, 0, random(1, 4096))
	if took := time.Since(began); took < 250*time.Millisecond || took > waitMax/2 {
		t.Fatalf("took %s", took)
	}
}

// TestOnlySilenceIsStalling: what counts against a target is time in one stretch in which something waits for it and it says
// nothing; not how long ago the last stretch began, nor how long nothing was written.
func TestOnlySilenceIsStalling(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.close()
	a.lim.SyncTimeout = time.Hour
	a.open()
	a.serve(1, "b")
	p := connect(a, b, lineage.Member{})
	l := a.v.findLink("b")
	pass := func(d time.Duration) {
		for ; d > 0; d -= tick {
			a.v.dropStalled()
		}
	}
	write := func() chan error {
		p.stall(true)
		done := make(chan error, 1)
		go func() { done <- do(a.v, block.Write, 0, 0, 4096, random(1, 4096)) }()
		waitFor(t, "a write that waits", func() bool {
			a.v.mu.Lock()
			defer a.v.mu.Unlock()
			return a.v.waiting.head != nil
		})
		return done
	}
	for range 3 {
		done := write()
		pass(40 * time.Minute)
		if l.stream.Err() != nil {
			t.Fatalf("dropped after 40 minutes: %v", l.stream.Err())
		}
		p.stall(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Hour) // idle
		if l.stream.Err() != nil {
			t.Fatalf("dropped while nothing waited: %v", l.stream.Err())
		}
	}
	done := write()
	pass(61 * time.Minute)
	a.wait("LinkDown", is[mirror.LinkDown])
	a.v.Require(nil, 1)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHoldDrainsAndReleases(t *testing.T) {
	a := newServer(t, "a", 4<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	a.v.Hold("plan")
	e := a.wait("Drained", is[mirror.Drained]).(mirror.Drained)
	if e.Plan != "plan" || e.Number != a.v.Status(time.Now()).Number {
		t.Fatal(e)
	}
	done := make(chan error, 1)
	go func() { done <- do(a.v, block.Write, 0, 0, 4096, random(2, 4096)) }()
	select {
	case err := <-done:
		t.Fatalf("a held write was answered: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	a.v.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a.v.Hold("again")
	a.wait("Drained", is[mirror.Drained])
	go func() { done <- do(a.v, block.Write, 0, 0, 4096, random(3, 4096)) }()
	a.v.CloseDevice("test")
	if err := <-done; err == nil || err.Error() != block.ErrShutdown.Error() {
		t.Fatalf("a held write after the device closed: %v", err)
	}
}

// TestCrashes: the source's process dies, or it loses power, again and again under writers; what its target lacks is
// found by version and digest, and both are equal in the end.
func TestCrashes(t *testing.T) {
	for _, power := range []bool{false, true} {
		t.Run(fmt.Sprintf("power=%v", power), func(t *testing.T) {
			a, b := newServer(t, "a", 16<<20), newServer(t, "b", 16<<20)
			rng := rand.New(rand.NewSource(7))
			for round := range 8 {
				a.serve(uint64(round + 1))
				connect(a, b, lineage.Member{})
				if r := a.v.Status(time.Now()).Links["b"].Resync; r != nil && r.Kind == "full" {
					t.Fatalf("round %d: %+v", round, r)
				}
				same(t, a, b)
				for range 50 {
					put(t, a.v, rng.Int63n(16<<20-64<<10), random(rng.Int63(), 1+rng.Intn(64<<10)))
				}
				victim := []*server{a, b}[round%2]
				victim.crash(power)
				if victim == b {
					a.wait("LinkDown", is[mirror.LinkDown])
					a.v.CloseDevice("round is over")
					a.v.BecomeTarget()
				} else {
					b.wait("SessionEnded", is[mirror.SessionEnded])
				}
			}
		})
	}
}

// crash ends the server at once and opens what is left.
func (s *server) crash(power bool) {
	s.t.Helper()
	if power {
		s.fs.CrashPower()
	} else {
		s.fs.CrashProcess()
	}
	dead := s.v
	for _, l := range dead.snapshot() {
		_ = l.stream.Close(errCut)
		<-l.gone
	}
	dead.DropSession("crash")
	close(dead.stop)
	dead.done.Wait()
	s.mu.Lock()
	s.events = nil // of the dead
	s.mu.Unlock()
	s.open()
}

func TestCleanStopLeavesNothingUnknown(t *testing.T) {
	a, b := newServer(t, "a", 16<<20), newServer(t, "b", 16<<20)
	a.serve(1)
	connect(a, b, lineage.Member{})
	put(t, a.v, 0, random(1, 1<<20))
	a.close()
	a.open()
	if n := a.v.Status(time.Now()).Unknown; n != 0 {
		t.Fatalf("%d bytes are unknown after a clean stop", n)
	}
	b.close()
	b.open()
	a.serve(2)
	connect(a, b, lineage.Member{})
	if r := a.v.Status(time.Now()).Links["b"].Resync; r != nil {
		t.Fatalf("a resync moved something after clean stops: %+v", r)
	}
	same(t, a, b)
}

func TestChangedBehindTheBackIsUnknown(t *testing.T) {
	a := newServer(t, "a", 4<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	a.close()
	f, err := a.fs.Open("/s/data.img", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("somebody else"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	a.open()
	if n := a.v.Status(time.Now()).Unknown; n != 4<<20 {
		t.Fatalf("%d bytes are unknown, not all", n)
	}
}

// TestInterruptedFirstResyncGoesOn: a new target whose first resync was cut off has no history yet, but what it got is
// known: the rest is partial, and what agrees is not sent again.
func TestInterruptedFirstResyncGoesOn(t *testing.T) {
	a, b := newServer(t, "a", 16<<20), newServer(t, "b", 16<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 8<<20))
	x := begin(a, b, lineage.Member{ResyncBytes: 8 << 20}, false) // paced, so that it can be cut
	waitFor(t, "some of it has come", func() bool { return b.v.log.Version(4) != lineage.ZeroVersion })
	_ = x.Close(errCut)
	a.wait("LinkDown", is[mirror.LinkDown])
	b.wait("SessionEnded", is[mirror.SessionEnded])
	put(t, a.v, 0, random(2, 4096)) // a region that it has already
	connect(a, b, lineage.Member{})
	same(t, a, b)
	if r := a.v.Status(time.Now()).Links["b"].Resync; r.Kind != "partial" || r.Progress.Sent >= 8<<20 {
		t.Fatalf("%+v", r)
	}
}
