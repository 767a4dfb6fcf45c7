package web

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"keelson/internal/api"
)

// block is a part of a view: HTML with an id that is replaced as a whole when it changes, or a list of such parts.
type block struct {
	id    string        // "": never changes
	html  template.HTML // of no list; has exactly one element, with the id
	list  []block       // of a list, which is a div with the id
	class string        // of a list
	say   string        // what a screen reader is told when it changes
}

// view is what one address of the page shows.
type view interface {
	title() string
	// blocks are made anew for each state.
	blocks(st *state) ([]block, error)
	// load fetches what the status does not hold; it is called beside the stream, and blocks shows what is there.
	load(ctx context.Context)
	// changed is closed when blocks would differ although the state is the same; nil: never.
	changed() <-chan struct{}
}

// still is for views that the status alone decides.
type still struct{}

func (still) load(context.Context)     {}
func (still) changed() <-chan struct{} { return nil }

// Pace of a stream.
const (
	patchEvery = 200 * time.Millisecond // between two patches
	loadEvery  = 2 * time.Second        // between two loads
	beatEvery  = 3 * time.Second        // a quiet stream says that it lives
	goneMax    = 2 * time.Second        // what is not there for so long is gone
)

// patch is one message of a stream.
type patch struct {
	Lists map[string][]string `json:"lists,omitempty"` // ids of the children in their order
	Parts [][2]string         `json:"parts,omitempty"` // id, HTML
	Say   []string            `json:"say,omitempty"`
}

// viewFor finds the view of a stream.
func (s *Server) viewFor(r *request) (view, error) {
	q := r.URL.Query()
	r.SetPathValue("volume", q.Get("volume"))
	r.SetPathValue("id", q.Get("id"))
	switch q.Get("view") {
	case "overview":
		return s.overviewView(r)
	case "events":
		return s.eventsView(r)
	case "audit":
		if r.user.Role.May(Administrator) {
			return s.auditView(r)
		}
	case "volume":
		return s.volumeView(r)
	case "task":
		return s.taskView(r)
	}
	return nil, api.Errorf(api.Usage, "", "there is no view %.40q", q.Get("view"))
}

// stream sends what changes in a view until the reader goes away or is shut out.
func (s *Server) stream(w http.ResponseWriter, r *request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		http.Error(w, "too many are looking at this page", http.StatusServiceUnavailable)
		return
	}
	v, err := s.viewFor(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	p := &patcher{sent: map[string]string{}, lists: map[string][]string{}, w: w, control: control}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	loader := newLoader(ctx, v)
	defer loader.wait()
	defer cancel()
	var gone time.Time // since when there is nothing to show
	for ctx.Err() == nil {
		if q, ok := s.who(r.Request); !ok || q.user.Role != r.user.Role {
			p.event("out", nil) // the script loads the page anew, which leads to the login
			return
		}
		st, changed := s.hub.look()
		loader.kick()
		more, loaded := v.changed(), loader.loaded()
		blocks, err := v.blocks(st)
		switch {
		case err == nil && !p.send(blocks):
			return
		case err == nil:
			gone = time.Time{}
		case gone.IsZero(): // the state may be older than the page
			gone = time.Now()
		case time.Since(gone) > goneMax:
			p.event("out", nil)
			return
		}
		if !pause(ctx, patchEvery) {
			return
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				waiting = false
			case <-more:
				waiting = false
			case <-loaded:
				waiting = false
			case <-time.After(beatEvery):
				if !p.event("beat", nil) {
					return
				}
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// patcher knows what one reader has.
type patcher struct {
	sent    map[string]string
	lists   map[string][]string
	begun   bool
	w       http.ResponseWriter
	control *http.ResponseController
}

// send writes the blocks that differ from what was sent. The first message has all of them.
func (p *patcher) send(blocks []block) bool {
	var m patch
	p.collect(blocks, &m)
	if !p.begun {
		m.Say = nil
	}
	p.begun = true
	if m.Lists == nil && m.Parts == nil {
		return true
	}
	return p.event("patch", m)
}

func (p *patcher) collect(blocks []block, m *patch) {
	for _, b := range blocks {
		switch {
		case b.id == "":
		case b.list != nil:
			ids := []string{}
			for _, c := range b.list {
				ids = append(ids, c.id)
			}
			if had, ok := p.lists[b.id]; !ok || !slices.Equal(had, ids) {
				if m.Lists == nil {
					m.Lists = map[string][]string{}
				}
				m.Lists[b.id], p.lists[b.id] = ids, ids
				for _, gone := range had {
					if !slices.Contains(ids, gone) {
						delete(p.sent, gone)
					}
				}
			}
			p.collect(b.list, m)
		case p.sent[b.id] != string(b.html):
			p.sent[b.id] = string(b.html)
			m.Parts = append(m.Parts, [2]string{b.id, string(b.html)})
			if b.say != "" && p.sent["say "+b.id] != b.say {
				p.sent["say "+b.id] = b.say
				m.Say = append(m.Say, b.say)
			}
		}
	}
}

// event writes one event; false: nobody reads any more.
func (p *patcher) event(kind string, value any) bool {
	data, err := json.Marshal(value)
	if err != nil {
		return false
	}
	_ = p.control.SetWriteDeadline(time.Now().Add(writeMax)) // not every writer has deadlines
	if _, err := fmt.Fprintf(p.w, "event: %s\ndata: %s\n\n", kind, data); err != nil {
		return false
	}
	return p.control.Flush() == nil
}

// loader loads a view beside its stream, one load at a time. Its goroutine ends with ctx.
type loader struct {
	kicked chan struct{}
	done   chan chan struct{} // holds the channel that is closed when the next load is done
	ended  chan struct{}
}

func newLoader(ctx context.Context, v view) *loader {
	l := &loader{kicked: make(chan struct{}, 1), done: make(chan chan struct{}, 1), ended: make(chan struct{})}
	l.done <- make(chan struct{})
	go func() {
		defer close(l.ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-l.kicked:
			}
			limit, cancel := context.WithTimeout(ctx, lookMax)
			v.load(limit)
			cancel()
			close(<-l.done)
			l.done <- make(chan struct{})
			if !pause(ctx, loadEvery) {
				return
			}
		}
	}()
	return l
}

func (l *loader) kick() {
	select {
	case l.kicked <- struct{}{}:
	default:
	}
}

// loaded is closed when the next load is done.
func (l *loader) loaded() <-chan struct{} {
	c := <-l.done
	l.done <- c
	return c
}

func (l *loader) wait() { <-l.ended }
