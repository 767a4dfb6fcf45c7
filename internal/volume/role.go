package volume

import (
	"crypto/rand"
	"encoding/json"
	"fmt"

	"keelson/internal/block"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/wire"
)

// BecomeSource saves the standing and, unless lazily, a new generation in the same atomic write (rule 1). A restarted
// source begins its generation with its first write.
func (v *Volume) BecomeSource(s lineage.Standing, lazy bool) error {
	v.genMu.Lock()
	defer v.genMu.Unlock()
	if c := v.log.Header().Consistent; c != consistentYes {
		return fmt.Errorf("volume %s: this copy is in the middle of a resync (%s) and cannot become source; roll it back or let the resync end (%s)", v.name, c, lineage.RuleNotConsistent)
	}
	v.mu.Lock()
	v.position, v.index, v.inStep = v.at(), 0, false
	v.mu.Unlock()
	if lazy {
		return v.SaveStanding(s)
	}
	return v.begin(&s)
}

// BecomeTarget ends the tenure of this server as source in the data path: what it holds is its position.
func (v *Volume) BecomeTarget() {
	v.mu.Lock()
	at := v.at()
	if at.Gen == v.gen.ID && v.inFlight() { // the disk has not all of it
		at.Number = min(at.Number, v.prefix())
	}
	if v.position, v.index = at, 0; v.failed != nil { // what it answered since is on the targets
		v.position = v.log.Floor()
	}
	v.mu.Unlock()
}

// BeginGeneration begins the generation of this tenure if that has not happened (rule 1: durably, before the first write).
func (v *Volume) BeginGeneration() error {
	v.genMu.Lock()
	defer v.genMu.Unlock()
	v.mu.Lock()
	begun, serving := v.index != 0, v.serving
	v.mu.Unlock()
	if begun {
		return nil
	}
	if !serving {
		return block.ErrShutdown
	}
	if v.goOnCounting() {
		return nil
	}
	return v.begin(nil)
}

// begin adds a generation that begins above every number that can have been used. What is unknown gets its adoption
// number, stays hot until the next checkpoint and is hashed before it is sent (rule 8). genMu is held.
func (v *Volume) begin(s *lineage.Standing) error {
	v.mu.Lock()
	held := v.at()
	began := max(v.number, held.Number, v.reserved)
	v.mu.Unlock()
	standing := v.log.Header().Standing
	if s != nil {
		standing = *s
	}
	gen := lineage.Generation{Term: standing.Served, Began: began, Held: held.Number, After: standing.Record.After, Anew: begunAnew(v.log.Header())}
	_, _ = rand.Read(gen.ID[:]) // never fails (crypto/rand ends the program instead)
	if began+1+reserveStep > lineage.NumberMax {
		return fmt.Errorf("volume %s: its numbers are used up; make a new volume from this copy", v.name)
	}
	if err := v.reserve(began + 1 + reserveStep); err != nil {
		return v.logError(err)
	}
	index, err := v.log.GenIndex(gen.ID)
	if err != nil {
		return err
	}
	v.ckptMu.Lock() // no checkpoint may cool them before they have their versions
	defer v.ckptMu.Unlock()
	if unknown := v.log.UnknownExtents(); len(unknown) > 0 {
		if err := v.log.MarkHot(unknown); err != nil {
			return v.logError(err)
		}
	}
	err = v.log.Save(func(h *intentlog.Header) {
		if s != nil {
			h.Standing = *s
		}
		h.History = append(h.History, gen)
		h.Position = lineage.Position{Gen: gen.ID, Number: began}
		h.Consistent = consistentYes
		delete(h.Extra, extraAnew) // it is this generation's content now
	})
	if err != nil {
		return v.logError(err)
	}
	frame, err := json.Marshal(gen)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.log.AdoptUnknown(lineage.MakeVersion(index, began+1))
	v.number, v.gen, v.index = began+1, gen, index
	for _, l := range v.links {
		if l.cut {
			continue
		}
		l.stream.Queue(wire.Header{Type: wire.TypeNewGen, Gen: index, Number: began + 1}, nil, frame)
	}
	v.mu.Unlock()
	v.changed.Store(true)
	return nil
}
