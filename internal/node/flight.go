package node

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"keelson/internal/api"
	"keelson/internal/config"
	"keelson/internal/flight"
)

// stallAfter is how long a write has to wait until a recording of it is kept.
const stallAfter = 2 * time.Second

// record begins the flight recording, if it is wished, until ctx ends.
func (n *Node) record(ctx context.Context) {
	if n.cfg.FlightRecorder != config.On {
		return
	}
	r, err := flight.Start(filepath.Join(n.cfg.State, "flight"))
	if err != nil { // another agent of this process, in tests
		n.log.Warn("no flight recording", "err", err)
		return
	}
	n.flight = r
	n.spawn(func() {
		defer r.Stop()
		r.Watch(ctx, stallAfter, n.oldestWait, n.stalled)
	})
}

// oldestWait is the volume whose oldest unanswered write has waited longest.
func (n *Node) oldestWait() (object string, longest time.Duration) {
	for _, v := range n.all() {
		if wait := v.v.OldestWait(); wait > longest {
			object, longest = "volume "+v.name, wait
		}
	}
	return object, longest
}

func (n *Node) stalled(object string, wait time.Duration, file string, err error) {
	e := api.Event{Level: "warning", Object: object, Message: fmt.Sprintf("a write has waited %s for its answer", wait.Round(time.Millisecond)),
		Next: "see which mirror or disk is slow (keelson status); what the agent did meanwhile: go tool trace " + file}
	if err != nil {
		e.Next = "see which mirror or disk is slow (keelson status); the flight recording could not be kept: " + err.Error()
	}
	n.events.Add(e)
}

// serveFlight answers GET /debug/flight on the local socket with the recording of the last seconds.
func (n *Node) serveFlight(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet:
		http.Error(w, "a recording is asked for with GET", http.StatusMethodNotAllowed)
	case n.flight == nil:
		http.Error(w, `nothing is recorded: set flight-recorder = "on" and restart the agent`, http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		if _, err := n.flight.WriteTo(w); err != nil {
			n.log.Warn("a flight recording was not written whole", "err", err)
			panic(http.ErrAbortHandler) // so that nobody takes it for whole
		}
	}
}
