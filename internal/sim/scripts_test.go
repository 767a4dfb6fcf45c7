package sim

import (
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// Scripts show a protection that random histories of this length need too rarely. The world's random numbers choose what is written
// and when; nothing fails but what the script says. TestScripts shows that they break nothing as long as nothing is left out.

// scripts are theirs, with the number of servers.
var scripts = map[string]struct {
	servers int
	play    func(*world)
}{
	"take-back":                {2, loseTheAnswer},
	"ask":                      {2, returnOfTheSource},
	"checkpoint-drains":        {2, coolInFlight},
	"compare-by-position-only": {3, furtherButNotInSync},
	"fence-not-durable":        {3, takeOverOnce},
	"promise-not-durable":      {3, takeOverOnce},
	"salvage-by-lineage":       {2, twoSides},
	"discard-forgotten":        {2, twoSides},
	"salvage-unknown":          {2, twoSidesAndACrash},
	"serve-before-leaving":     {3, sourceDiskFails},
	"anchor-voids-images":      {2, takeOverInMidResync},
	"save-stream-writes":       {2, takeOverInMidResync},
	"no-roll-back":             {2, takeOverInMidResync},
}

// settle waits until everybody mirrors.
func (w *world) settle() {
	w.until("everybody mirrors", func() bool { return len(w.inStep()) == len(w.servers)-1 })
}

// clients lets them do so many things.
func (w *world) clients(n int) {
	for range n {
		w.client()
		w.pause(time.Duration(w.rng.IntN(4000)) * time.Microsecond)
		w.check()
	}
}

func (w *world) split(a, b *server, cut bool) {
	w.net.setCut(a.name, b.name, cut)
	w.net.setCut(b.name, a.name, cut)
}

// byForce lets a server take over.
func (w *world) byForce(s *server) {
	w.switchover(s, api.Switchover{Volume: volumeName, To: s.name, Force: true})
	w.until(s.name+" serves", s.open)
	w.admins.Wait()
	w.check()
}

// loseTheAnswer: the heir takes the role, and the giver does not hear of it for longer than a switchover may take.
func loseTheAnswer(w *world) {
	a, b := w.servers[0], w.servers[1]
	w.settle()
	w.clients(10)
	w.net.mu.Lock()
	w.net.slow = 20 * time.Millisecond
	w.net.mu.Unlock()
	w.switchover(a, api.Switchover{Volume: volumeName, To: "b"})
	for range 1000 {
		if w.pause(time.Millisecond); a.volume().Header().Role == lineage.RoleHanded {
			break
		}
	}
	w.net.setCut("b", "a", true)
	for range 60 {
		w.pause(100 * time.Millisecond)
		w.check()
	}
	w.net.setCut("b", "a", false)
	w.until("b serves", b.open)
	w.settle()
}

// returnOfTheSource: it died, another server took over, and it comes back when it can ask nobody.
func returnOfTheSource(w *world) {
	a, b := w.servers[0], w.servers[1]
	w.settle()
	w.clients(10)
	a.proc.die(false, "")
	w.byForce(b)
	w.clients(10)
	w.split(a, b, true)
	a.start()
	w.pause(5 * time.Second)
	w.check()
	w.split(a, b, false)
	w.settle()
}

// coolInFlight: a source makes checkpoints while its own disk has not done a write that its target has, and dies before it is done: its map
// must not say that it has it.
func coolInFlight(w *world) {
	a := w.servers[0]
	w.settle()
	w.clients(4)
	w.pause(3 * time.Second) // everything cools
	a.slow.Store(-int64(4 * time.Second))
	w.among = spots[:1] // of the first extent
	t, before := a.proc.tenure, len(a.proc.tenure.writes)
	for len(t.writes) == before {
		w.write(t, 60)
	}
	w.pause(20 * time.Millisecond)
	a.slow.Store(0)
	w.among = spots[40:] // of others: there is something for a checkpoint to do
	for range 30 {
		w.write(t, 60)
		w.pause(100 * time.Millisecond)
	}
	w.among = nil
	a.proc.die(false, "")
	a.start()
	w.until("a serves again", a.open)
	w.settle()
	w.check()
}

// furtherButNotInSync: a paused target is further than what the one in sync is sure of after a crash, and has less.
func furtherButNotInSync(w *world) {
	a, b, c := w.servers[0], w.servers[1], w.servers[2]
	w.settle()
	w.pause(2 * time.Second)
	w.clients(15)
	w.change("a", api.MirrorChange{Target: "c", Action: "pause"})
	w.clients(15)
	a.proc.die(false, "")
	b.proc.die(false, "")
	w.pause(3500 * time.Millisecond)
	b.start()
	w.pause(2 * time.Second)
	w.switchover(c, api.Switchover{Volume: volumeName, To: "c", Force: true})
	w.admins.Wait()
	w.check()
}

// takeOverOnce: the source dies, and a target takes over while another one can be reached.
func takeOverOnce(w *world) {
	w.settle()
	w.clients(5)
	w.servers[0].proc.die(false, "")
	w.pause(4 * time.Second)
	w.byForce(w.servers[1])
	w.pause(time.Second)
	w.check()
	w.servers[0].start()
	w.settle()
}

// twoSides: the network splits, both sides go on, and an administrator chooses the newer one.
func twoSides(w *world) { w.bothGoOn(false) }

// twoSidesAndACrash: the older one was killed before it came back.
func twoSidesAndACrash(w *world) { w.bothGoOn(true) }

func (w *world) bothGoOn(crash bool) {
	a, b := w.servers[0], w.servers[1]
	w.settle()
	w.clients(10)
	w.split(a, b, true)
	w.until("a is alone", func() bool {
		w.client()
		return len(a.volume().Header().Record.Members) == 1
	})
	w.clients(30)
	w.pause(5 * time.Second) // then b has not heard of a for long enough
	w.byForce(b)
	w.clients(30)
	w.pause(200 * time.Millisecond)
	w.check()
	if crash {
		a.proc.die(false, "")
		a.start()
		w.pause(time.Second)
	}
	w.split(a, b, false)
	w.pause(3 * time.Second)
	w.resolve(b, "b")
	w.admins.Wait()
	w.settle()
	w.pause(time.Second)
}

// sourceDiskFails: it goes on from a target, and an administrator switches over.
func sourceDiskFails(w *world) {
	a := w.servers[0]
	w.settle()
	w.clients(10)
	a.mu.Lock()
	a.eio = "write"
	a.mu.Unlock()
	w.net.setCut("a", "c", true) // c cannot hear that a has left the in-sync set
	w.clients(60)
	w.net.setCut("a", "c", false)
	w.until("a serves from b", func() bool {
		w.client()
		return a.via() != nil
	})
	w.clients(20)
	w.moveTo("b")
	w.until("b serves", w.byName("b").open)
	w.clients(10)
	w.until("c mirrors", func() bool { return slices.Contains(w.inStep(), "c") })
}

// takeOverInMidResync: the second resync of a target ends with the death of its source, and the target takes over.
func takeOverInMidResync(w *world) {
	w.inMidResync()
	w.byForce(w.servers[1])
	w.pause(time.Second)
}

// inMidResync leaves b alone in the middle of a resync.
func (w *world) inMidResync() {
	a, b := w.servers[0], w.servers[1]
	some, apart := spots[:len(spots)-8], spots[len(spots)-8:] // no region of the second is among the first
	for round := range 2 {
		w.settle()
		w.among = apart
		w.clients(20)
		w.among = some
		w.split(a, b, true)
		w.until("a is alone", func() bool {
			w.client()
			return len(a.volume().Header().Record.Members) == 1
		})
		w.clients(30)
		rate := int64([]int{0, 128 << 10}[round])
		w.change("a", api.MirrorChange{Target: "b", Action: "set", ResyncRate: &rate})
		w.split(a, b, false)
	}
	w.until("b is in the middle of a resync", func() bool {
		v := b.volume()
		return v.Header().Consistent == "rolling" && v.UndoStatus().Regions > 1
	})
	w.among = nil
	w.clients(30)
	a.proc.die(false, "")
	w.pause(5 * time.Second)
}
