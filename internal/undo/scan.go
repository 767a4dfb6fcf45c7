package undo

import "encoding/binary"

// scan finds the images of the anchor, and the end of those that can be trusted; when it returns they are durable. A batch is written only after the one
// before it is durable, so a record whose batch begins after another one's ordinal proves that one durable: unless that one is
// whole, it is damage. What is not proved is the tail: there everything is checked, and the first that is torn ends the log.
func (l *Log) scan() error {
	size, err := l.file.Size()
	if err != nil {
		return err
	}
	s := &scanner{log: l, size: size, heads: window{file: l.file, piece: sectorBytes}}
	if err := s.walk(); err != nil {
		return err
	}
	if err := s.checkTail(); err != nil {
		return err
	}
	s.secured = s.tailAt
	if err := s.prove(); err != nil {
		return err
	}
	if err := s.secureTail(); err != nil {
		return err
	}
	l.ordinal = s.n
	if size != s.at || s.n == 0 {
		return l.cut(s.at)
	}
	l.tail.Store(s.at)
	return nil
}

type scanner struct {
	log   *Log
	size  int64
	heads window

	at          int64  // end of what is whole so far
	n           uint64 // how many records that is
	tailAt      int64  // where the newest batch begins
	tailFrom    uint64 // its first ordinal
	tailRegions []int64
	secured     int64 // the end of what is durable for sure
}

func (s *scanner) name() string { return s.log.path(imagesFile) }

// walk goes from header to header.
func (s *scanner) walk() error {
	for s.at < s.size {
		b, err := s.heads.get(s.at, sectorBytes)
		if err != nil {
			return err
		}
		h, c := s.decode(b)
		switch {
		case c == damaged:
			return corrupt(s.name(), s.at, "an image's header is wrong")
		case c == newer:
			return newerFormat(s.name(), s.at+4, binary.LittleEndian.Uint16(b[4:]))
		case c == foreign && s.n == 0:
			return nil // of an anchor before this one: nothing was saved since
		case c == foreign:
			return corrupt(s.name(), s.at, "an image of another anchor follows those of this one")
		case c == torn:
			return s.lookAhead()
		case h.ordinal != s.n || h.batch < s.tailFrom || h.length > s.log.o.RegionBytes:
			return corrupt(s.name(), s.at, "image %d of batch %d is where image %d is due", h.ordinal, h.batch, s.n)
		}
		if err := s.take(h); err != nil {
			return err
		}
	}
	return nil
}

// take adds a record with an intact header.
func (s *scanner) take(h recordHead) error {
	if h.batch > s.tailFrom || s.n == 0 { // a batch begins: the one before is durable
		if h.batch != s.n {
			return corrupt(s.name(), s.at, "image %d says that its batch began with image %d", s.n, h.batch)
		}
		if err := s.prove(); err != nil {
			return err
		}
	}
	s.tailRegions = append(s.tailRegions, h.region)
	s.at += h.bytes()
	s.n++
	return nil
}

// lookAhead searches behind a header that is not there for records that prove it was durable.
func (s *scanner) lookAhead() error {
	w := window{file: s.log.file, piece: windowBytes}
	for at := s.at + sectorBytes; at < s.size; at += sectorBytes {
		b, err := w.get(at, sectorBytes)
		if err != nil {
			return err
		}
		if string(b[:4]) != recordMagic {
			continue
		}
		h, c := s.decode(b)
		if c == whole && h.batch > s.n {
			return corrupt(s.name(), s.at, "image %d is not there, and image %d is", s.n, h.ordinal)
		}
		if c == whole && h.batch == s.n { // the one that is not there began a batch: the one before is durable
			if err := s.prove(); err != nil {
				return err
			}
		}
	}
	return nil
}

// prove takes all records so far as durable: what follows is the tail.
func (s *scanner) prove() error {
	for _, region := range s.tailRegions {
		if !s.log.saved.add(region) {
			return corrupt(s.name(), s.at, "region %d is saved twice", region)
		}
	}
	s.tailAt, s.tailFrom, s.tailRegions = s.at, s.n, s.tailRegions[:0]
	return nil
}

// checkTail reads the newest batch whole, and ends the log before the first record that is torn.
func (s *scanner) checkTail() error {
	w := window{file: s.log.file, piece: windowBytes}
	at := s.tailAt
	for i := range s.tailRegions {
		b, err := w.get(at, sectorBytes)
		if err != nil {
			return err
		}
		h, c := s.decode(b)
		if c != whole {
			return corrupt(s.name(), at, "an image's header has changed while it was read")
		}
		r, err := readRecord(&w, at, h)
		if err != nil {
			return err
		}
		switch r.condition {
		case damaged:
			return corrupt(s.name(), at+r.at, "the content of region %d is wrong", h.region)
		case torn:
			s.at, s.n, s.tailRegions = at, s.tailFrom+uint64(i), s.tailRegions[:i]
			return nil
		}
		at += h.bytes()
	}
	return nil
}

// secureTail writes the newest batch once more, as it is, and syncs: if its sync failed in an earlier life it is in memory, where
// it reads as if it were on the disk, and no sync writes it again (vfs.File.Datasync). What was durable stays so all the while.
func (s *scanner) secureTail() error {
	if s.at == s.secured || s.log.leftOut(writeAtOpen) {
		return nil
	}
	w := window{file: s.log.file, piece: windowBytes}
	for at := s.secured; at < s.at; {
		b, err := w.get(at, int(min(windowBytes, s.at-at)))
		if err != nil {
			return err
		}
		if _, err := s.log.file.WriteAt(b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return s.log.file.Datasync()
}

func (s *scanner) decode(b []byte) (recordHead, condition) { return s.log.decode(b) }

// decode reads a header of this log's anchor.
func (l *Log) decode(b []byte) (recordHead, condition) {
	owner := l.owner
	if l.leftOut(imagesNamed) {
		owner = ident{}
	}
	return decodeHead(b, owner)
}

// readResult is a record's table and data, and what they are.
type readResult struct {
	data      []byte
	condition condition
	at        int64 // where in the record it is not whole
}

// readRecord reads what follows a header.
func readRecord(w *window, off int64, h recordHead) (r readResult, err error) {
	if h.length == 0 {
		return r, nil
	}
	b, err := w.get(off+sectorBytes, int(h.bytes()-sectorBytes))
	if err != nil {
		return r, err
	}
	table := b[:tableBytes(h.length)]
	r.data = b[len(table):]
	if r.condition, r.at = h.checkTable(table); r.condition != whole {
		r.at += sectorBytes
		return r, nil
	}
	r.condition, r.at = checkData(table, r.data, 0)
	r.at += h.dataAt()
	return r, nil
}

// cut ends the file there, durably: what is written behind it later finds zeroes, and no stale image ever follows a new one.
func (l *Log) cut(at int64) error {
	l.tail.Store(at)
	if l.leftOut(tailCut) {
		return nil
	}
	size, err := l.file.Size()
	if err != nil || size == at {
		return err
	}
	if err := l.file.Truncate(at); err != nil {
		return err
	}
	return l.file.Datasync()
}
