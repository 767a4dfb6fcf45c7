package sim

import (
	"context"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// holding is what a take-over by force of a volume with hold-old-copies left as it was.
type holding struct {
	term   lineage.Term // of the take-over; zero: nothing is held, as far as the checkers can be sure
	words  int          // how many commands were given that end a hold
	copies map[*server]heldCopy
}

type heldCopy struct {
	since   time.Time
	digests []uint64
}

// endsHold: an administrator gives a command after which the checkers expect nothing of the copies any more. mu is held.
func (w *world) endsHold() {
	w.held.words++
	w.held.term = lineage.Term{}
	clear(w.held.copies)
}

// word is what was so when a take-over by force was asked for.
type word struct {
	words  int          // holding.words, this one included; -1: another command that ends a hold is under way, and nobody knows which is the last
	newest lineage.Term // that anybody served in
}

func (w *world) lastWord() word {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.commands {
		if c.endsHold {
			return word{words: -1}
		}
	}
	return word{w.held.words + 1, w.newest}
}

// beginHold: that server took over by force, and that was the administrators' last word. mu is held.
func (w *world) beginHold(to *server, last word) {
	v := to.volume()
	if v == nil || w.held.words != last.words {
		return
	}
	// In an older term it was the source already, and is opened again: that is no take-over.
	if h := v.Header(); h.Settings.HoldCopies && h.Role == lineage.RoleSource && h.Served.Node == to.name && last.newest.Less(h.Served) {
		w.held.term = h.Served
		w.tally("take-overs that hold")
	}
}

// checkHeld: the copy of a server that follows the new source's term stays what it was until somebody says otherwise. mu is held.
func (w *world) checkHeld() {
	if w.held.term == (lineage.Term{}) {
		return
	}
	for _, s := range w.servers {
		v := s.volume()
		k, known := w.held.copies[s]
		if v == nil && known && !s.lostPower().After(k.since) {
			continue
		}
		if v == nil || s.name == w.held.term.Node || s.open() || v.Header().Promised != w.held.term || s.hasFailed() || s.out.Load() || s.changing.Load() || s.lostPower().After(k.since) && known {
			delete(w.held.copies, s)
			continue
		}
		if s.proc.busy.Load() > 0 {
			continue
		}
		now := make([]uint64, volumeBytes/regionBytes)
		for r := range now {
			now[r] = s.digest(int64(r))
		}
		if !known {
			w.held.copies[s] = heldCopy{time.Now(), now}
			w.tally("copies held")
		} else if !slices.Equal(k.digests, now) {
			w.failLocked("hold", "the copy of %s changed, and nobody has accepted the source of term %s", s.name, w.held.term)
		}
	}
}

// hold is an administrator who accepts a new source, or changes whether the next one has to be.
func (w *world) hold(s *server) {
	if at := w.source(); at != nil && w.rng.IntN(3) > 0 {
		s = at
	}
	if w.rng.IntN(4) > 0 {
		w.accept(s)
		return
	}
	on := w.rng.IntN(3) > 0
	w.setVolume(s, "hold", api.VolumeChange{HoldOldCopies: &on})
}

func (w *world) accept(at *server) { w.setVolume(at, "accept", api.VolumeChange{Accept: true}) }

func (w *world) setVolume(at *server, text string, c api.VolumeChange) {
	c.Name = volumeName
	w.order(at, false, text, func(ctx context.Context, a api.Service) error {
		_, err := a.SetVolume(ctx, c)
		if err == nil {
			w.tally(text + " done")
		}
		return err
	})
}
