package node

import (
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/volume"
)

// A volume that was stopped, or could not be opened, because a disk here had no room goes on by itself: its replica is closed and
// opened again, exactly as by a stop and a start of the agent. So what could not be made durable was never said, a source asks
// everybody before it opens (rule 24), and a roll-back that had begun is repeated. Before that the old one is left as it is
// until its log takes a write again: closed with room, it knows all that it holds.
const (
	againMin = time.Second      // from the stop to the first try
	againMax = 15 * time.Second // between two later ones
)

// againWait is the wait before the next try, after so many in a row.
func againWait(tries int) time.Duration {
	return min(againMin<<min(tries, 8), againMax)
}

// openLater has the volume opened again. making is not needed.
func (n *Node) openLater(name string, tries int) {
	n.spawn(func() {
		for ; ; tries++ {
			select {
			case <-time.After(againWait(tries)):
			case <-n.ctx.Done():
				return
			}
			if n.openAgain(name, tries+1) {
				return
			}
		}
	})
}

// openAgain opens a volume that has no room, if it has some now; true: nothing more is to be done.
func (n *Node) openAgain(name string, tries int) bool {
	n.making.Lock()
	defer n.making.Unlock()
	n.mu.Lock()
	a, broken := n.volumes[name], n.broken[name]
	n.mu.Unlock()
	switch {
	case a == nil && !volume.NoRoom(broken): // forgotten meanwhile
		return true
	case a == nil:
	case !volume.NoRoom(a.failed()) || a.leaving.Load() || a.v.Failed() != nil: // a disk that failed is not used again in this life
		return true
	case !a.shut:
		if err := a.inTime(1, a.v.Room); volume.NoRoom(err) {
			return false
		} else if err != nil { // its disk failed, or hangs
			a.staysStopped(err)
			return true
		}
		if err := a.close(); err != nil { // what it could not note is found at the open
			n.log.Warn("volume closed with an error", "volume", name, "err", err)
		}
		a.shut = true
	}
	if n.ctx.Err() != nil {
		return true
	}
	if err := n.openVolumeAfter(name, tries); err != nil {
		n.log.Error("volume cannot be opened again", "volume", name, "err", err)
		n.notOpened(a, name, err)
		return !volume.NoRoom(err)
	}
	n.log.Info("there is room again, the volume goes on", "volume", name)
	if a == nil || a.tries == 0 { // it was said that it had none
		n.events.Add(api.Event{Level: "info", Volume: name, Object: "volume " + name, Message: "there is room again: the volume goes on"})
	}
	return true
}

// notOpened shows why. One that only has no room goes on telling others what it knows: whoever waits for its word must not hear that
// it does not know the volume.
func (n *Node) notOpened(a *vol, name string, err error) {
	n.mu.Lock()
	if a != nil && volume.NoRoom(err) {
		a.stoppedBy(err)
	} else {
		delete(n.volumes, name)
		n.broken[name] = err
	}
	n.mu.Unlock()
	n.bump()
}

// cannotOpen notes a replica that is here and cannot be opened.
func (n *Node) cannotOpen(name string, err error) {
	n.log.Error("volume cannot be opened", "volume", name, "err", err)
	e := api.Event{Level: "error", Volume: name, Object: "volume " + name, Message: "cannot be opened: " + err.Error()}
	if volume.NoRoom(err) {
		e.Rule, e.Next = lineage.RuleNoRoom, lineage.NextOf(lineage.RuleNoRoom)
	}
	n.events.Add(e)
	n.mu.Lock()
	n.broken[name] = err
	n.mu.Unlock()
	if volume.NoRoom(err) {
		n.openLater(name, 0)
	}
}
