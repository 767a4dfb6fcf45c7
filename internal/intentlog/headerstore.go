package intentlog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"keelson/internal/vfs"
)

const (
	headerSlotBytes = 16 << 20 // the place of a slot; only what is used is written
	headerHeadBytes = 32
	headerJSONMax   = headerSlotBytes/sectorBytes*payloadBytes - headerHeadBytes
	headerMagic     = 0x5244484b // "KHDR"
)

func headerSlotAt(slot int) int64 { return blockBytes + int64(slot)*headerSlotBytes }

// headerStore keeps the header in two slots that are written in turn.
type headerStore struct {
	saving   sync.Mutex // over file I/O and what only saves use: one at a time
	file     vfs.File
	id       logID
	slot     int    // the newest one
	sequence uint64 // of the newest save tried; each try has its own
	buf      []byte // the newest slot's bytes after load

	mu    sync.Mutex // over what follows; never held during I/O, so that a disk that hangs keeps nobody from reading it
	doc   headerDoc  // as it is in the newest slot
	saved uint64     // sequence of the newest save that is durable
}

// save writes the document into the other slot and syncs. On an error the newest slot still holds what it held.
func (s *headerStore) save(doc headerDoc, stamp uint64, inPlace bool) error {
	slot := 1 - s.slot
	if inPlace {
		slot = s.slot
	}
	s.sequence++
	var err error
	if s.buf, err = encodeHeader(s.buf[:0], doc, s.sequence, stamp, &s.id); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(s.buf, headerSlotAt(slot)); err != nil {
		return err
	}
	if err := s.file.Datasync(); err != nil {
		return err
	}
	s.slot = slot
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doc, s.saved = doc, s.sequence
	return nil
}

// prove writes the newest slot once more, as it is, and syncs. If it was durable nothing changes, whenever the power goes.
func (s *headerStore) prove() error {
	if _, err := s.file.WriteAt(s.buf, headerSlotAt(s.slot)); err != nil {
		return err
	}
	return s.file.Datasync()
}

// encodeHeader appends a slot:
//
//	0 magic u32 | 4 version u16 | 6 zero u16 | 8 sequence u64 | 16 JSON bytes u32 | 20 CRC32C of the JSON | 24 zero (8) | 32 JSON
func encodeHeader(dst []byte, doc headerDoc, sequence, stamp uint64, id *logID) ([]byte, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return dst, fmt.Errorf("encode the header: %w", err)
	}
	if len(text) > headerJSONMax {
		return dst, fmt.Errorf("the header has %d bytes, more than %d", len(text), headerJSONMax)
	}
	payload := make([]byte, headerHeadBytes, headerHeadBytes+len(text))
	le := binary.LittleEndian
	le.PutUint32(payload, headerMagic)
	le.PutUint16(payload[4:], formatVersion)
	le.PutUint64(payload[8:], sequence)
	le.PutUint32(payload[16:], uint32(len(text)))
	le.PutUint32(payload[20:], crc32.Checksum(text, castagnoli))
	return sealUnit(dst, append(payload, text...), kindHeader, stamp, id), nil
}

func headerPayloadBytes(first []byte) (int, bool) {
	n := binary.LittleEndian.Uint32(first[16:])
	return headerHeadBytes + int(n), binary.LittleEndian.Uint32(first) == headerMagic && n <= headerJSONMax
}

// decodeHeader reads a slot. The document is only there if it is whole.
func decodeHeader(src []byte, id *logID) (doc headerDoc, sequence uint64, c condition, err error) {
	payload, c, at := unsealUnit(nil, src, kindHeader, id, headerPayloadBytes)
	if c != whole {
		return doc, 0, c, &CorruptError{Offset: int64(at), Why: "a sector's checksum or fields are wrong"}
	}
	le := binary.LittleEndian
	text := payload[headerHeadBytes:]
	if v := le.Uint16(payload[4:]); v > formatVersion {
		return doc, 0, damaged, newer("", v)
	}
	if crc32.Checksum(text, castagnoli) != le.Uint32(payload[20:]) {
		return doc, 0, damaged, &CorruptError{Offset: 20, Why: "the checksum of the header's text is wrong"}
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return doc, 0, damaged, &CorruptError{Offset: headerHeadBytes, Why: fmt.Sprintf("the header's text: %v", err)}
	}
	return doc, le.Uint64(payload[8:]), whole, nil
}

// readSlot reads what is used of one slot.
func (s *headerStore) readSlot(slot int) (src []byte, doc headerDoc, sequence uint64, c condition, err error) {
	src = make([]byte, sectorBytes)
	if _, err := s.file.ReadAt(src, headerSlotAt(slot)); err != nil && err != io.EOF {
		return nil, doc, 0, damaged, err
	}
	if _, c := unseal(src, kindHeader, 0, &s.id); c == whole {
		if n, ok := headerPayloadBytes(src); ok {
			src = make([]byte, sectorsFor(n)*sectorBytes)
			if _, err := s.file.ReadAt(src, headerSlotAt(slot)); err != nil && err != io.EOF {
				return nil, doc, 0, damaged, err
			}
		}
	}
	doc, sequence, c, err = decodeHeader(src, &s.id)
	return src, doc, sequence, c, err
}

// load finds the newest header. One torn slot is what a crash leaves; anything else that is not whole is damage.
func (s *headerStore) load(name string) error {
	found := false
	for slot := range 2 {
		src, doc, sequence, c, err := s.readSlot(slot)
		var corrupt *CorruptError
		switch {
		case c == torn:
			continue
		case c != whole && errors.As(err, &corrupt):
			corrupt.File, corrupt.Offset = name, corrupt.Offset+headerSlotAt(slot)
			if c == empty {
				corrupt.Why = "a slot that was written is empty"
			}
			return corrupt
		case err != nil:
			return err
		case !found || sequence > s.saved:
			found = true
			s.doc, s.slot, s.saved, s.sequence, s.buf = doc, slot, sequence, sequence, src
		}
	}
	if !found {
		return &CorruptError{File: name, Offset: headerSlotAt(0), Why: "both slots are torn"}
	}
	return nil
}
