package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/resync"
	"keelson/internal/wire"
)

// link is the source's end of one session. Its life: StartLink -> comparing (writes only mark their regions) -> decided:
// the copier walks the regions that are not in step, writes to all others are sent -> ended (everything is sent) ->
// inStep (the target has adopted history and position: answers wait for it) -> caught (it holds all that was answered
// without it) -> gone. Fields up to the blank line are fixed; the others are guarded by Volume.mu unless said.
type link struct {
	v       *Volume
	target  string
	session uint64
	stream  Stream
	full    bool
	pages   int64 // of the target's map
	kind    resync.Kind
	rule    string
	gone    chan struct{} // closed when the link is no longer in Volume.links
	decided chan struct{} // closed when the comparison is over
	answers chan struct{} // the copier is woken: a probe was answered

	sync      bool
	queueMax  atomic.Int64
	paceBytes atomic.Int64 // a second, resync only
	set       *resync.Set  // regions that are not in step
	hash      *resync.Set  // those of them whose content is hashed before it is sent
	asked     map[int64]lineage.Version
	comparing bool
	ended     bool
	inStep    bool
	cut       bool // a write failed here that may have reached the target: nothing more goes into this session
	caught    bool
	written   uint64 // acknowledged
	durable   uint64
	flushed   uint64 // the last flush sent
	need      uint64 // what has to be durable there before it may be a member
	progress  resync.Progress
	moved     bool          // the resync compared or moved something
	silent    time.Duration // for so long, in the keeper's ticks, something waited for this target and it acknowledged nothing
	lag       lag

	compare compare   // the reader's own
	ahead   dataAhead // the copier's own
}

// LinkOptions are what a session begins with.
type LinkOptions struct {
	Target  string
	Session uint64
	Member  lineage.Member
	Full    bool // copy everything
	Reply   wire.HelloReply
}

// StartLink begins to mirror through the stream, which the target has accepted. LinkDown is posted when it is over.
func (v *Volume) StartLink(s Stream, o LinkOptions) error {
	if old := v.findLink(o.Target); old != nil {
		_ = old.stream.Close(errors.New("replaced by a new session"))
		<-old.gone
	}
	l := &link{
		v: v, target: o.Target, session: o.Session, stream: s, full: o.Full, pages: o.Reply.Pages,
		gone: make(chan struct{}), decided: make(chan struct{}), answers: make(chan struct{}, 1),
		set: resync.NewSet(v.regions), hash: resync.NewSet(v.regions), asked: map[int64]lineage.Version{}, comparing: true,
	}
	for {
		if v.log.UnknownRegions() > 0 { // they need a version to be sent with
			if err := v.BeginGeneration(); err != nil {
				return err
			}
		}
		v.mu.Lock()
		if v.log.UnknownRegions() == 0 || v.index != 0 {
			break
		}
		v.mu.Unlock()
	}
	l.tune(o.Member)
	header := v.log.Header()
	l.compare.common = shared(header.History, o.Reply.History)
	l.compare.adopted = adoptions(header.Generations, header.History)
	table := make([]byte, 0, 16*len(header.Generations))
	for _, id := range header.Generations {
		table = append(table, id[:]...)
	}
	s.Queue(wire.Header{Type: wire.TypeGens}, nil, table)
	v.setLinks(append(slices.Clone(v.links), l))
	v.mu.Unlock()
	s.TryFlush()
	v.done.Add(1)
	go l.run()
	return nil
}

// shared reports that the histories have a generation in common.
func shared(mine, theirs lineage.History) bool {
	for _, g := range theirs {
		if mine.Find(g.ID) >= 0 {
			return true
		}
	}
	return false
}

// Tune changes mode and limits of a running session.
func (v *Volume) Tune(m lineage.Member) {
	v.change1(func() {
		if l := v.find(m.Node); l != nil {
			l.tune(m)
		}
	})
}

// tune: mu is held.
func (l *link) tune(m lineage.Member) {
	l.sync = m.Mode != lineage.Async
	limit := m.QueueBytes
	if limit == 0 {
		limit = l.v.o.Limits.QueueBytesMax
	}
	l.queueMax.Store(limit)
	l.paceBytes.Store(m.ResyncBytes)
	l.stream.SetRate(m.RateBytes)
}

// snapshot returns the links; the slice never changes.
func (v *Volume) snapshot() []*link {
	if links := v.shown.Load(); links != nil {
		return *links
	}
	return nil
}

// setLinks replaces the links. mu is held.
func (v *Volume) setLinks(links []*link) {
	v.links = links
	v.shown.Store(&links)
}

// find returns the target's link or nil. mu is held.
func (v *Volume) find(target string) *link {
	for _, l := range v.links {
		if l.target == target {
			return l
		}
	}
	return nil
}

func (v *Volume) findLink(target string) *link {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.find(target)
}

// Hangup ends the session to the target, if there is one.
func (v *Volume) Hangup(target string, why error) {
	if l := v.findLink(target); l != nil {
		_ = l.stream.Close(why)
	}
}

// HangupAll ends all sessions to targets.
func (v *Volume) HangupAll(why error) {
	for _, l := range v.snapshot() {
		_ = l.stream.Close(why)
	}
}

// tryFlush sends what can be sent.
func tryFlush(links []*link) {
	for _, l := range links {
		l.stream.TryFlush()
	}
}

// run owns the link: it reads what the target says until the stream ends, then takes the link out.
func (l *link) run() {
	defer l.v.done.Done()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		if err := l.copy(); err != nil {
			_ = l.stream.Close(err)
		}
	}()
	err := l.read()
	_ = l.stream.Close(err)
	<-copied
	v := l.v
	v.change1(func() {
		rest := make([]*link, 0, len(v.links))
		for _, other := range v.links {
			if other != l {
				rest = append(rest, other)
			}
		}
		v.setLinks(rest)
		l.progress.Stop()
		v.remember(l)
		v.there.lose(l)
	})
	close(l.gone)
	down := mirror.LinkDown{Target: l.target, Session: l.session, Why: err.Error()}
	var ruled interface{ RuleName() string }
	if errors.As(err, &ruled) {
		down.Rule = ruled.RuleName()
	}
	v.post(down)
}

func (l *link) read() error {
	for {
		h, body, err := l.stream.Read()
		if err != nil {
			return err
		}
		err = l.handle(h, body)
		body.Release()
		if err != nil {
			return err
		}
	}
}

// handle takes one frame of the target's.
func (l *link) handle(h wire.Header, body *block.Buffer) error {
	switch h.Type {
	case wire.TypeAck:
		l.acked(h.Number, h.Offset)
	case wire.TypeEnded:
		l.targetAdopted(h.Number)
	case wire.TypeRecordAck:
		var epoch lineage.Epoch
		if err := wire.Unmarshal(h.Type, body.Bytes, &epoch); err != nil {
			return err
		}
		l.v.post(mirror.RecordAcked{Target: l.target, Session: l.session, Epoch: epoch})
	case wire.TypeChecked:
		l.v.post(mirror.CheckedThere{Target: l.target, Session: l.session, Number: h.Number})
	case wire.TypeGens, wire.TypeDigests, wire.TypePages:
		return l.comparison(h, body)
	case wire.TypeReadAnswer:
		return l.readAnswered(h, body)
	case wire.TypeProbeAnswer:
		return l.probed(int64(h.Offset)>>l.v.region, h.Flags&wire.FlagSame != 0)
	default:
		return fmt.Errorf("mirror %s->%s: the target sent a frame of type %s, which only sources send (wire-order)", l.v.self, l.target, h.Type)
	}
	return nil
}

// acked takes a cumulative acknowledgement and gives the answers that waited for it.
func (l *link) acked(written, durable uint64) {
	v := l.v
	var out queue
	var tell mirror.Event
	v.mu.Lock()
	l.written, l.durable = max(l.written, written), max(l.durable, durable)
	l.silent = 0
	l.lag.acked(l.written)
	if l.inStep && !l.caught && l.durable >= l.need {
		l.caught = true
		tell = mirror.Caught{Target: l.target, Session: l.session}
	}
	v.settle(&out)
	if v.held {
		v.freed.Broadcast()
	}
	v.mu.Unlock()
	l.v.finishAll(&out)
	v.post(tell)
}

// targetAdopted: the target has durably adopted history and position of the end of its resync. Answers wait for it from
// now on (rule 17), and a flush goes out behind everything that was answered without it.
func (l *link) targetAdopted(number uint64) {
	v := l.v
	v.change1(func() {
		l.inStep = !l.cut
		l.silent = 0
		l.written, l.durable = max(l.written, number), max(l.durable, number)
		l.need = v.answered
		l.progress.Finish(time.Now())
		v.remember(l)
		l.flushed = 0
		l.flush(v.number)
	})
	l.stream.TryFlush()
	v.post(mirror.InStep{Target: l.target, Session: l.session})
	l.acked(0, 0)
}

// flush sends a flush of the number unless that is on its way. mu is held.
func (l *link) flush(number uint64) {
	if l.ended && !l.cut && l.flushed < number {
		l.flushed = number
		l.stream.Queue(wire.Header{Type: wire.TypeFlush, Number: number}, nil, nil)
	}
}

// send puts the parts of a write that are in step into the stream (rule 4). mu is held.
func (l *link) send(r *block.Request, first, last int64) {
	if l.cut {
		return
	}
	if l.comparing { // rule 13: whatever the digests say
		if l.v.omits(omitMeanwhile) {
			return
		}
		for region := first; region <= last; region++ {
			l.set.Add(region)
		}
		return
	}
	if l.set.Len() == 0 {
		l.sendPart(r, r.Off, r.Off+r.Len)
		return
	}
	if l.v.omits(omitByRegion) {
		if !l.set.Has(first) {
			l.sendPart(r, r.Off, r.Off+r.Len)
		}
		return
	}
	for region := first; region <= last; {
		if l.set.Has(region) {
			region++
			continue
		}
		from := region
		for region <= last && !l.set.Has(region) {
			region++
		}
		l.sendPart(r, max(r.Off, from<<l.v.region), min(r.Off+r.Len, region<<l.v.region))
	}
}

// sendPart queues [off, end) of the write. The whole of it travels without a copy. mu is held.
func (l *link) sendPart(r *block.Request, off, end int64) {
	h := wire.Header{Number: r.Number, Offset: uint64(off), Length: uint64(end - off), Gen: l.v.index}
	var body *block.Buffer
	switch {
	case r.Op != block.Write:
		h.Type = wire.TypeZero
		if r.Op == block.Trim || r.Flags&block.NoHole == 0 {
			h.Flags = wire.FlagTrim
		}
	case end-off == r.Len:
		h.Type, h.Body, h.BodyCRC, body = wire.TypeWrite, uint32(r.Len), r.Sum, r.Buf
		if h.BodyCRC == 0 {
			h.BodyCRC = wire.Checksum(body.Bytes)
		}
	default:
		body = block.NewBuffer(int(end - off))
		copy(body.Bytes, r.Buf.Bytes[off-r.Off:])
		h.Type, h.Body, h.BodyCRC = wire.TypeWrite, uint32(end-off), wire.Checksum(body.Bytes)
		defer body.Release()
	}
	l.stream.Queue(h, body, nil)
	l.lag.sent(r.Number, end-off)
}

// waitRoom waits, bounded, until the target's queue is below its limit; a target that stays full is dropped.
func (l *link) waitRoom(limit int64) {
	wait := l.v.o.Limits.AsyncStall
	l.v.mu.Lock()
	if l.sync {
		wait = l.v.o.Limits.SyncTimeout
	}
	l.v.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := l.stream.WaitRoom(ctx, limit); err != nil && l.stream.Err() == nil {
		_ = l.stream.Close(fmt.Errorf("its queue of %d bytes stayed full for %s", limit, wait))
	}
}

// dropStalled ends sessions whose target acknowledges nothing while something waits for it. The keeper calls it with each tick:
// time in which this process stood still does not count against a target, nor does time in which nothing waited.
func (v *Volume) dropStalled() {
	limit := v.o.Limits.SyncTimeout
	var late []*link
	v.mu.Lock()
	for _, l := range v.links {
		if !l.inStep || !l.sync && l != v.there.via || !v.waitsFor(l) {
			l.silent = 0
			continue
		}
		if l.silent += tick; l.silent > limit {
			late = append(late, l)
		}
	}
	v.mu.Unlock()
	for _, l := range late {
		_ = l.stream.Close(fmt.Errorf("the target acknowledged nothing for %s (sync-timeout)", limit))
	}
}

// waitsFor reports that something waits for this target's acknowledgement. mu is held.
func (v *Volume) waitsFor(l *link) bool {
	if l == v.there.via && len(v.there.asked) > 0 {
		return true
	}
	write, flush := v.waiting.head, v.flushes.head
	if v.failed != nil { // what hangs in the disk may be the first for ever, and the target has it
		write, flush = v.waiting.tail, v.flushes.tail
	}
	return write != nil && write.Number > l.written || flush != nil && flush.Number > l.durable && flush.Number <= l.flushed
}

// SendRecord puts the in-sync record into the target's stream; RecordAcked follows.
func (v *Volume) SendRecord(target string, r lineage.Record) error {
	return v.sendJSON(target, wire.Header{Type: wire.TypeRecord}, r)
}

// SendSettings puts the volume's settings into the target's stream.
func (v *Volume) SendSettings(target string, s lineage.Settings) error {
	return v.sendJSON(target, wire.Header{Type: wire.TypeSettings}, s)
}

// SendCheckpoint asks the target for a whole checkpoint behind everything sent so far; CheckedThere follows.
func (v *Volume) SendCheckpoint(target string) {
	v.mu.Lock()
	l := v.find(target)
	if l != nil {
		l.stream.Queue(wire.Header{Type: wire.TypeCheckpoint, Number: v.number}, nil, nil)
	}
	v.mu.Unlock()
	if l != nil {
		l.stream.TryFlush()
	}
}

func (v *Volume) sendJSON(target string, h wire.Header, value any) error {
	text, err := wire.Marshal(h.Type, value)
	if err != nil {
		return err
	}
	l := v.findLink(target)
	if l == nil {
		return nil // LinkDown is on its way
	}
	l.stream.Queue(h, nil, text)
	l.stream.TryFlush()
	return nil
}

// appendU32 adds a number to a list as it travels.
func appendU32(dst []byte, n uint32) []byte { return binary.LittleEndian.AppendUint32(dst, n) }
