// Package journal keeps the newest events of one agent, across restarts, bounded by their number. It is how an
// administrator finds out on Monday what happened on Saturday night.
//
// Two files beside the agent's state, docs/formats/events.md: the one that is written, and the one before it. A line is
// an event. Events are handed to the disk by a goroutine of the journal's own: whoever has something to tell never waits
// for a disk, least of all with the news that a disk hangs. What was told in the last moments before a power cut may be
// missing; nothing else depends on events.
package journal

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/vfs"
)

// Options make a Log.
type Options struct {
	FS   vfs.FS
	Dir  string // of the two files
	Node string // who tells
	Max  int    // events kept, at least 1
	Now  func() time.Time
	Log  *slog.Logger
}

// restartGap is added to the sequence at each start, so that no number is used twice although the last events before a
// crash may not have reached the disk: whoever follows asks for what is greater than the last number that he saw.
const restartGap = 1000

// Log is the journal. Its life: Open -> Add, After in any order and from anywhere -> Close.
type Log struct {
	o Options

	mu     sync.Mutex
	seq    uint64
	kept   []api.Event // the newest Max, oldest first
	change chan struct{}
	told   map[string]uint64 // since Open, by level
	closed bool

	wake   chan struct{} // the writer: there is more
	done   chan struct{} // the writer has ended
	writer writer
}

// Open reads what is kept, and begins to write. A line that cannot be read is passed over and counted in an event; a
// file that cannot be read or written is told in the agent's log and in an event: the agent works without.
func Open(o Options) *Log {
	l := &Log{o: o, told: map[string]uint64{}, change: make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.writer = writer{fs: o.FS, dir: o.Dir, linesMax: o.Max}
	events, damaged, err := l.writer.open()
	l.kept = events[max(0, len(events)-o.Max):]
	l.writer.seq = lastSeq(events)
	if l.seq = l.writer.seq; l.seq > 0 {
		l.seq += restartGap
	}
	if damaged > 0 {
		l.Add(api.Event{Level: "warning", Object: "events of " + o.Node,
			Message: fmt.Sprintf("%d lines in %s could not be read and are passed over", damaged, filepath.Join(o.Dir, current)), Next: "nothing: newer events are kept"})
	}
	if err != nil {
		l.troubled(err)
	}
	go l.write()
	return l
}

func lastSeq(events []api.Event) uint64 {
	if len(events) == 0 {
		return 0
	}
	return events[len(events)-1].Seq
}

// Add notes an event: number, time and node are the journal's. It never waits for a disk.
func (l *Log) Add(e api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	l.told[e.Level]++
	e.Seq, e.Time, e.Node = l.seq, l.o.Now().UTC(), l.o.Node
	if len(l.kept) >= l.o.Max {
		l.kept = append(l.kept[:0], l.kept[len(l.kept)-l.o.Max+1:]...)
	}
	l.kept = append(l.kept, e)
	close(l.change)
	l.change = make(chan struct{})
	if l.closed {
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// After returns the kept events that fit the query, oldest first, and a channel that is closed when there are more.
func (l *Log) After(q api.EventsQuery) ([]api.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []api.Event
	for _, e := range l.kept {
		if q.Fits(e) {
			out = append(out, e)
		}
	}
	if q.Limit > 0 && len(out) > q.Limit {
		out = out[len(out)-q.Limit:]
	}
	return out, l.change
}

// Told says how many events of each level there were since Open.
func (l *Log) Told() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.told)
}

// Close writes what is left and ends the writer.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.wake)
	}
	l.mu.Unlock()
	<-l.done
	return l.writer.close()
}

// write is the writer's goroutine: it takes what is new and makes it durable. The first error ends the writing, until the
// next start: a journal that is full or broken must not fill the agent's log.
func (l *Log) write() {
	defer close(l.done)
	for more := true; more; {
		_, more = <-l.wake
		if err := l.writer.append(l.fresh()); err != nil {
			l.troubled(err)
			return
		}
	}
}

// fresh are the events that the writer has not taken.
func (l *Log) fresh() []api.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.kept, l.writer.seq+1, func(e api.Event, seq uint64) int {
		return cmp.Compare(e.Seq, seq)
	})
	return slices.Clone(l.kept[i:])
}

// troubled tells that events are not kept across restarts.
func (l *Log) troubled(err error) {
	if errors.Is(err, errGivenUp) {
		return
	}
	l.writer.giveUp()
	l.o.Log.Error("events are not kept across restarts", "dir", l.o.Dir, "err", err)
	l.Add(api.Event{Level: "warning", Object: "events of " + l.o.Node,
		Message: "events are kept in memory only: " + err.Error(), Next: "mend what it names and restart the agent"})
}
