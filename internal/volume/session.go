package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"keelson/internal/block"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/wire"
)

// session is the target's end: one goroutine reads the stream and applies each frame before the next (rule 15). Its life:
// Attach -> table and digests of the map are sent -> [Begin: anchor set, position frozen, durably (rules 11, 26)] -> copies,
// probes and those writes that are in step, each after what it overwrites is saved (saving.go) -> End: history and position are adopted after a checkpoint, all at once ->
// in step -> over.
type session struct {
	v      *Volume
	stream Stream
	from   string
	id     uint64
	done   chan struct{}    // closed when all its I/O is finished
	gens   []uint16         // index in the source's table -> index in this log's
	ids    []lineage.GenID  // the source's table
	source lineageAt        // at its hello
	tenure lineage.GenID    // of the source, zero if it is in none
	agreed lineage.Position // where this replica agrees with the source's history
	kept   lineage.History  // ... and the history up to there
	saver  saver

	inStep  bool
	resync  bool   // something out of order has come, or may
	written uint64 // applied
	durable uint64 // the last flush done
	acked   [2]uint64
	marks   []int64 // scratch
}

// SessionOptions are what a session at a target begins with.
type SessionOptions struct {
	ID       uint64 // the events of this session carry it
	From     string
	History  lineage.History  // of the source, at its hello
	Position lineage.Position // ... and its position: what of its newest generation needs no salvage
	Tenure   lineage.GenID    // the generation that the source is in, zero if it has begun none
	Agreed   lineage.Position // where this replica agrees with it (rule 12)
	Kept     lineage.History  // this replica's history up to there
}

// Attach begins a session: the volume applies what the stream brings until it ends or DropSession is called. There is at
// most one at a time: the caller has dropped the one before. SessionEnded is posted when all its I/O is finished.
func (v *Volume) Attach(stream Stream, o SessionOptions) error {
	s := &session{v: v, stream: stream, from: o.From, id: o.ID, done: make(chan struct{}), source: lineageAt{o.History, o.Position, v.hasFollowed(o.Tenure)}, tenure: o.Tenure, agreed: o.Agreed, kept: o.Kept}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed != nil {
		return v.failed
	}
	if v.session != nil || v.serving || v.undo.busy {
		return fmt.Errorf("volume %s: a session from %s while another one, a rollback or this server's own device is under way", v.name, o.From)
	}
	if v.inFlight() {
		return fmt.Errorf("volume %s: the disk under %s has not finished what was written here before; the session from %s has to wait for it", v.name, v.path, o.From)
	}
	v.session = s
	v.position, v.index = v.at(), 0
	v.done.Add(1)
	go s.run()
	return nil
}

// run owns the session.
func (s *session) run() {
	v := s.v
	defer v.done.Done()
	v.endViews()
	err := v.finishRollback() // before the source sees the map
	if err == nil {
		err = s.introduce()
	}
	for err == nil {
		var h wire.Header
		var body *block.Buffer
		if h, body, err = s.stream.Read(); err != nil {
			break
		}
		if err = s.take(h, body); err == nil && !s.stream.Buffered() {
			s.ack()
		}
	}
	s.forgetBatch()
	_ = s.stream.Close(err)
	v.mu.Lock()
	v.position, v.inStep = v.at(), false
	v.session = nil
	v.mu.Unlock()
	v.askCheckpoint()
	close(s.done)
	v.post(mirror.SessionEnded{ID: s.id, Why: err.Error()})
}

// dropWait is how long DropSession waits for a disk.
const dropWait = 5 * time.Second

// DropSession ends the incoming session and returns when its I/O is finished (rule 14); an error says that it is not, since
// the disk hangs.
func (v *Volume) DropSession(why string) error {
	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	if s == nil {
		return nil
	}
	_ = s.stream.Close(errors.New(why))
	late := time.NewTimer(dropWait)
	defer late.Stop()
	select {
	case <-s.done:
		return nil
	case <-late.C:
		return fmt.Errorf("volume %s: the disk under %s has not finished what the session from %s began, for %s after its end", v.name, v.path, s.from, dropWait)
	}
}

// AckRecord says to the source that the record of that epoch is durable here.
func (v *Volume) AckRecord(e lineage.Epoch) error {
	text, err := wire.Marshal(wire.TypeRecordAck, e)
	if err != nil {
		return err
	}
	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	if s != nil {
		s.stream.Queue(wire.Header{Type: wire.TypeRecordAck}, nil, text)
		s.stream.TryFlush()
	}
	return nil
}

// digestsPerFrame is how many page digests travel together.
const digestsPerFrame = 4096

// introduce sends the table of generations and the digests of all pages of the map.
func (s *session) introduce() error {
	v := s.v
	var table []byte
	for _, id := range v.log.Header().Generations {
		table = append(table, id[:]...)
	}
	s.stream.Queue(wire.Header{Type: wire.TypeGens}, nil, table)
	pages := v.log.Pages()
	var digests []byte
	for first := int64(0); first < pages; first += digestsPerFrame {
		digests = digests[:0]
		n := min(digestsPerFrame, pages-first)
		for page := first; page < first+n; page++ {
			d := v.log.PageDigest(page)
			digests = append(digests, d[:]...)
		}
		s.stream.Queue(wire.Header{Type: wire.TypeDigests, Number: uint64(first), Length: uint64(n)}, nil, digests)
	}
	s.stream.TryFlush()
	return s.stream.Err()
}

// ack says how far this target is, cumulatively, if that is news. Before the end of the resync nothing counts.
func (s *session) ack() {
	if now := [2]uint64{s.written, s.durable}; s.inStep && now != s.acked {
		s.acked = now
		s.stream.Queue(wire.Header{Type: wire.TypeAck, Number: s.written, Offset: s.durable}, nil, nil)
	}
	s.stream.TryFlush()
}

// apply does one frame.
func (s *session) apply(h wire.Header, body *block.Buffer) error {
	v := s.v
	switch h.Type {
	case wire.TypeWrite, wire.TypeZero:
		return s.write(h, body)
	case wire.TypeCopy, wire.TypeCopyZero:
		return s.copied(h, body)
	case wire.TypeProbe:
		return s.probe(h, body)
	case wire.TypeFlush:
		return s.flush(h.Number)
	case wire.TypeRead:
		return s.read(h)
	case wire.TypeGens:
		s.ids, s.gens = nil, nil
		return s.learn(body.Bytes)
	case wire.TypeWantPages:
		return s.pages(body.Bytes)
	case wire.TypeBegin:
		return s.begin(body.Bytes)
	case wire.TypeEnd:
		return s.end(body.Bytes)
	case wire.TypeNewGen:
		return s.newGen(h, body.Bytes)
	case wire.TypeRecord:
		var r lineage.Record
		if err := wire.Unmarshal(h.Type, body.Bytes, &r); err != nil {
			return err
		}
		v.post(mirror.RecordCame{ID: s.id, Record: r})
	case wire.TypeSettings:
		var set lineage.Settings
		if err := wire.Unmarshal(h.Type, body.Bytes, &set); err != nil {
			return err
		}
		v.post(mirror.SettingsCame{Settings: set})
	case wire.TypeCheckpoint:
		if err := v.checkpoint(true, nil); err != nil {
			return err
		}
		v.crash("target-checkpointed")
		s.durable = max(s.durable, s.written)
		s.stream.Queue(wire.Header{Type: wire.TypeChecked, Number: s.written}, nil, nil)
	default:
		return fmt.Errorf("mirror %s->%s: the source sent a frame of type %s, which only targets send (wire-order)", s.from, v.self, h.Type)
	}
	return nil
}

// learn takes (more of) the source's table of generations.
func (s *session) learn(table []byte) error {
	for ; len(table) >= 16; table = table[16:] {
		id, index := lineage.GenID(table[:16]), uint16(0)
		if len(s.ids) > 0 { // index 0 is "unknown" in every table
			var err error
			if index, err = s.v.log.GenIndex(id); err != nil {
				return err
			}
		}
		s.ids, s.gens = append(s.ids, id), append(s.gens, index)
	}
	return nil
}

// version translates the frame's generation.
func (s *session) version(h wire.Header) (lineage.Version, error) {
	if int(h.Gen) >= len(s.gens) || s.gens[h.Gen] == 0 {
		return 0, fmt.Errorf("mirror %s->%s: a frame names generation %d of the source's table, which was not announced (wire-order)", s.from, s.v.self, h.Gen)
	}
	return lineage.MakeVersion(s.gens[h.Gen], h.Number), nil
}

// pages sends the versions of the pages that the source wants.
func (s *session) pages(want []byte) error {
	var versions []lineage.Version
	var out []byte
	for ; len(want) >= 4; want = want[4:] {
		page := int64(binary.LittleEndian.Uint32(want))
		if page >= s.v.log.Pages() {
			return fmt.Errorf("mirror %s->%s: the source wants page %d of a map of %d (wire-order)", s.from, s.v.self, page, s.v.log.Pages())
		}
		versions, out = s.v.log.PageVersions(page, versions[:0]), out[:0]
		for _, v := range versions {
			out = binary.LittleEndian.AppendUint64(out, uint64(v))
		}
		s.stream.Queue(wire.Header{Type: wire.TypePages, Number: uint64(page), Length: uint64(len(versions))}, nil, out)
	}
	return nil
}

// begin: from here on something may come out of order, if anything differs.
func (s *session) begin(text []byte) error {
	var b wire.Begin
	if err := wire.Unmarshal(wire.TypeBegin, text, &b); err != nil {
		return err
	}
	s.resync = b.Regions > 0
	s.v.crash("target-begin")
	if s.resync {
		if err := s.beginResync(); err != nil {
			return err
		}
	}
	return s.resume()
}

// end adopts what the source says: after what is given up is in a salvage, and a checkpoint, in one atomic write (rule 11).
// Then there is nothing to go back to.
func (s *session) end(text []byte) error {
	var e wire.End
	if err := wire.Unmarshal(wire.TypeEnd, text, &e); err != nil {
		return err
	}
	v := s.v
	if s.saver.mode != saveNothing {
		if err := v.salvageImages(lineageAt{e.History, e.Position, s.source.followed}, s.reason()); err != nil {
			return err
		}
		v.crash("target-salvaged")
	}
	log := v.undo.log.Load()
	if log != nil && v.omits(omitAdoptFirst) {
		if err := v.dropUndo(log); err != nil {
			return err
		}
	}
	var record lineage.Record
	var settings lineage.Settings
	err := v.commitEnd(func(h *intentlog.Header) {
		h.History, h.Position, h.Consistent, h.Anchor = e.History, e.Position, consistentYes, nil
		delete(h.Extra, extraForeign)
		delete(h.Extra, extraAnew)
		if h.Record.Epoch.Compare(e.Record.Epoch) < 0 {
			h.Record = e.Record
		}
		if h.Settings.Version.Compare(e.Settings.Version) < 0 {
			h.Settings = e.Settings
		}
		record, settings = h.Record, h.Settings
		v.mu.Lock() // the next checkpoint saves no older position
		v.gen, v.number, v.position, v.inStep = e.History.Last(), e.Position.Number, e.Position, true
		v.mu.Unlock()
	})
	if err != nil {
		v.mu.Lock()
		v.inStep = false
		v.mu.Unlock()
		return err
	}
	v.crash("target-adopted")
	if log != nil {
		if err := v.dropUndo(log); err != nil { // its space; the header voids it already
			v.o.Log.Error("the undo log could not be emptied", "volume", v.name, "err", err)
		}
	}
	s.saver = saver{}
	v.setUndoReason("")
	s.inStep, s.resync = true, false
	s.written, s.durable = e.Position.Number, e.Position.Number
	s.acked = [2]uint64{s.written, s.durable}
	v.post(mirror.Adopted{ID: s.id, Record: record, Settings: settings})
	s.stream.Queue(wire.Header{Type: wire.TypeEnded, Number: s.written}, nil, nil)
	return nil
}

// newGen: the source's tenure got a generation. In step it is this replica's history too, durably, before a write of it.
func (s *session) newGen(h wire.Header, text []byte) error {
	var gen lineage.Generation
	if err := wire.Unmarshal(h.Type, text, &gen); err != nil {
		return err
	}
	switch {
	case int(h.Gen) < len(s.ids) && s.ids[h.Gen] == gen.ID: // it was in the table already
	case int(h.Gen) != len(s.ids):
		return fmt.Errorf("mirror %s->%s: generation %d of the source's table came where %d was due (wire-order)", s.from, s.v.self, h.Gen, len(s.ids))
	default:
		if err := s.learn(gen.ID[:]); err != nil {
			return err
		}
	}
	if !s.inStep {
		return nil
	}
	v := s.v
	err := v.log.Save(func(h *intentlog.Header) {
		if h.History.Last().ID != gen.ID {
			h.History = append(h.History, gen)
		}
	})
	if err != nil {
		return v.logError(err)
	}
	v.mu.Lock()
	v.gen, v.number = gen, h.Number
	v.mu.Unlock()
	s.written = h.Number
	return nil
}

// Floor is the position up to which everything is durable here.
func (v *Volume) Floor() lineage.Position { return v.log.Floor() }

// Pages is how many pages this replica's map has.
func (v *Volume) Pages() int64 { return v.log.Pages() }
