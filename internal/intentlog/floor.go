package intentlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// floorRecord is what every flush makes durable, small enough for one sector.
type floorRecord struct {
	sequence uint64
	position lineage.Position
	reserved uint64 // numbers up to this may be in use
	header   uint64 // sequence of the newest durable header save when this was written
}

func floorAt(slot int) int64 { return blockBytes + int64(slot)*blockBytes }

// floorStore keeps the floor record in two sectors that are written in turn.
type floorStore struct {
	mu     sync.Mutex // over file I/O and what is durable
	file   vfs.File
	id     logID
	record floorRecord                 // durable
	shown  atomic.Pointer[floorRecord] // the same, for whoever must not wait for the disk
	slot   int                         // that has it
	tried  uint64                      // sequence of the newest record tried
	sector [sectorBytes]byte

	wantMu sync.Mutex
	want   lineage.Position // the furthest that waits for mu: callers that come together share one write
}

// show lets readers see the record that is durable now. Under mu.
func (s *floorStore) show() {
	r := s.record
	s.shown.Store(&r)
}

// SetFloor makes durable that everything up to the position is durable here, which the caller has seen to before
// (rule 10). It never lowers the floor: a lower number of its generation, or an older generation of the history, is past already.
func (l *Log) SetFloor(p lineage.Position) error {
	l.floor.wish(p)
	saved, history := l.savedHeader()
	l.floor.mu.Lock()
	defer l.floor.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	r := l.floor.record
	if r.position.Gen == p.Gen && r.position.Number >= p.Number {
		return nil
	}
	if i := history.Find(p.Gen); i >= 0 && i < history.Find(r.position.Gen) {
		return nil
	}
	r.position = l.floor.furthest(p)
	return l.writeFloor("set the floor", r, saved)
}

// ResetFloor sets the floor to the position also if that lowers it: a replica gives up writes that it had durably
// (rule 12). Call it before the Save that cuts history and position back.
func (l *Log) ResetFloor(p lineage.Position) error {
	saved, _ := l.savedHeader()
	l.floor.mu.Lock()
	defer l.floor.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.floor.wantMu.Lock()
	l.floor.want = p
	l.floor.wantMu.Unlock()
	r := l.floor.record
	r.position = p
	return l.writeFloor("reset the floor", r, saved)
}

// Reserve makes durable that numbers up to n may be in use from now on. It never lowers what is reserved.
func (l *Log) Reserve(n uint64) error {
	if n > lineage.NumberMax {
		return fmt.Errorf("intent log %s: number %d is above the greatest of a volume, %d: make a new volume", l.dir, n, uint64(lineage.NumberMax))
	}
	saved, _ := l.savedHeader()
	l.floor.mu.Lock()
	defer l.floor.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	r := l.floor.record
	if n <= r.reserved {
		return nil
	}
	r.reserved = n
	return l.writeFloor("reserve numbers", r, saved)
}

// Reserved is the number up to which all may be in use.
func (l *Log) Reserved() uint64 {
	return l.floor.shown.Load().reserved
}

// savedHeader is the sequence and the history of the durable header. The history is not changed in place.
func (l *Log) savedHeader() (uint64, lineage.History) {
	l.header.mu.Lock()
	defer l.header.mu.Unlock()
	return l.header.saved, l.header.doc.History
}

// wish notes a position for whoever writes the next record.
func (s *floorStore) wish(p lineage.Position) {
	s.wantMu.Lock()
	defer s.wantMu.Unlock()
	if s.want.Gen != p.Gen || s.want.Number < p.Number {
		s.want = p
	}
}

// furthest is the furthest wish of the position's generation.
func (s *floorStore) furthest(p lineage.Position) lineage.Position {
	s.wantMu.Lock()
	defer s.wantMu.Unlock()
	if s.want.Gen == p.Gen && s.want.Number > p.Number {
		return s.want
	}
	return p
}

// writeFloor writes the record into the other sector and syncs. Under floor.mu.
func (l *Log) writeFloor(doing string, r floorRecord, header uint64) error {
	s := &l.floor
	s.tried++
	r.sequence, r.header = s.tried, max(r.header, header)
	slot := 1 - s.slot
	encodeFloor(s.sector[:], r, &s.id)
	if _, err := s.file.WriteAt(s.sector[:], floorAt(slot)); err != nil {
		return l.durable(doing, err)
	}
	if err := s.file.Datasync(); err != nil {
		return l.durable(doing, err)
	}
	s.record, s.slot = r, slot
	s.show()
	return nil
}

// prove writes the newest record once more, as it is, and syncs.
func (s *floorStore) prove() error {
	encodeFloor(s.sector[:], s.record, &s.id)
	if _, err := s.file.WriteAt(s.sector[:], floorAt(s.slot)); err != nil {
		return err
	}
	return s.file.Datasync()
}

// encodeFloor fills a sector:
//
//	0 sequence u64 | 8 generation (16) | 24 number u64 | 32 reserved u64 | 40 header sequence u64 | 48 zero
func encodeFloor(s []byte, r floorRecord, id *logID) {
	clear(s)
	le := binary.LittleEndian
	le.PutUint64(s, r.sequence)
	copy(s[8:24], r.position.Gen[:])
	le.PutUint64(s[24:], r.position.Number)
	le.PutUint64(s[32:], r.reserved)
	le.PutUint64(s[40:], r.header)
	seal(s, kindFloor, 0, r.sequence, id)
}

var errSector = errors.New("the sector's checksum or fields are wrong")

func decodeFloor(s []byte, id *logID) (r floorRecord, err error) {
	stamp, c := unseal(s, kindFloor, 0, id)
	le := binary.LittleEndian
	r.sequence = le.Uint64(s)
	copy(r.position.Gen[:], s[8:24])
	r.position.Number = le.Uint64(s[24:])
	r.reserved = le.Uint64(s[32:])
	r.header = le.Uint64(s[40:])
	if c != whole || stamp != r.sequence || !allZero(s[48:payloadBytes]) ||
		r.position.Number > lineage.NumberMax || r.reserved > lineage.NumberMax {
		return floorRecord{}, errSector
	}
	return r, nil
}

// load takes the newer record. A sector is written whole or not at all, so one that is not whole is damage.
func (s *floorStore) load(name string) error {
	for slot := range 2 {
		if _, err := s.file.ReadAt(s.sector[:], floorAt(slot)); err != nil && err != io.EOF {
			return err
		}
		r, err := decodeFloor(s.sector[:], &s.id)
		if err != nil {
			return &CorruptError{File: name, Offset: floorAt(slot), Why: err.Error()}
		}
		if slot == 0 || r.sequence > s.record.sequence {
			s.record, s.slot = r, slot
		}
	}
	s.tried, s.want = s.record.sequence, s.record.position
	s.show()
	return nil
}
