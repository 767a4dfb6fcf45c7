package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"keelson/internal/api"
)

// A switchover goes on whoever looks: it is a task of the page, and its view follows it.

const (
	tasksMax = 32               // that are remembered; a running one is never forgotten
	taskMax  = 15 * time.Minute // of the call
)

type tasks struct {
	mu   sync.Mutex
	kept map[string]*task
}

// task is a switchover that the page began.
type task struct {
	id     string
	volume string
	to     string
	force  bool
	// release is what becomes of what is mounted from the source's device: "" | unmount | freeze.
	release string
	user    string
	addr    string // of the user's browser
	began   time.Time

	mu      sync.Mutex
	from    string
	steps   []api.SwitchoverStep
	result  *api.SwitchoverResult
	err     *api.Error
	ended   time.Time     // of the call
	changed chan struct{} // closed and replaced at every change
}

// begin makes a task; nil if too many run.
func (t *tasks) begin(x *task) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.kept) >= tasksMax {
		oldest := ""
		for id, k := range t.kept {
			if k.over() && (oldest == "" || k.began.Before(t.kept[oldest].began)) {
				oldest = id
			}
		}
		if oldest == "" {
			return false
		}
		delete(t.kept, oldest)
	}
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	x.id, x.changed = hex.EncodeToString(raw[:]), make(chan struct{})
	t.kept[x.id] = x
	return true
}

func (t *tasks) find(id string) *task {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept[id]
}

func (x *task) over() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.ended.IsZero()
}

// asked is the call.
func (x *task) asked() api.Switchover {
	return api.Switchover{Volume: x.volume, To: x.to, Force: x.force, Unmount: x.release == "unmount", Freeze: x.release == "freeze"}
}

// change changes the task and tells who looks.
func (x *task) change(f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f()
	close(x.changed)
	x.changed = make(chan struct{})
}

// step notes that a step began or ended; one that no plan spoke of is added.
func (x *task) step(p api.SwitchoverStep) {
	x.change(func() {
		if i := slices.IndexFunc(x.steps, func(k api.SwitchoverStep) bool { return k.Name == p.Name }); i >= 0 {
			x.steps[i].State = p.State
			return
		}
		x.steps = append(x.steps, p)
	})
}

// run makes the call. The page's Close ends it here; the agents go on with what was begun.
func (s *Server) run(x *task) {
	ctx, cancel := context.WithTimeout(s.as(s.ctx, x.user, x.addr), taskMax)
	defer cancel()
	asked := x.asked()
	result, err := s.o.Service.Switchover(ctx, asked, x.step)
	s.note(ctx, "Switchover", asked, err)
	x.change(func() {
		x.ended = s.o.Now()
		if err != nil {
			x.err = api.AsError(err)
			return
		}
		x.result, x.from = result, result.From
		for i := range x.steps {
			x.steps[i].State = "done"
		}
	})
}

// taskView follows one.
func (s *Server) taskView(r *request) (view, error) {
	x := s.tasks.find(r.PathValue("id"))
	if x == nil {
		return nil, api.Errorf(api.Failed, "switchover", "this page does not remember it: it was long ago, or the agent was started again since").
			WithNext("the volume's page shows what became of it")
	}
	return &taskPage{s: s, x: x}, nil
}

type taskPage struct {
	s *Server
	x *task
}

func (p *taskPage) title() string        { return "Switchover of " + p.x.volume + " to " + p.x.to }
func (p *taskPage) load(context.Context) {}

func (p *taskPage) changed() <-chan struct{} {
	p.x.mu.Lock()
	defer p.x.mu.Unlock()
	return p.x.changed
}

// turned is a mirror of the new source after the switchover.
type turned struct {
	api.MirrorStatus
	Class, Sign string
	Moved       string // what its resync moved since
	Why         string
	Done        int
}

func (p *taskPage) blocks(st *state) ([]block, error) {
	x := p.x
	x.mu.Lock()
	data := map[string]any{"Volume": x.volume, "To": x.to, "From": x.from, "Force": x.force, "Steps": slices.Clone(x.steps), "Error": x.err,
		"Result": x.result, "Running": x.ended.IsZero(), "Began": x.began, "User": x.user}
	began, over := x.began, x.result != nil
	x.mu.Unlock()
	say := "Switchover runs"
	list := []turned{}
	all := true
	if v := st.volume(x.volume); v != nil && over && v.Source == x.to {
		for _, m := range v.Mirrors {
			t := turned{MirrorStatus: m, Class: classOf(m.State), Sign: signs[classOf(m.State)]}
			switch r := m.Resync; {
			case r != nil && !r.Started.Before(began.Add(-time.Second)):
				t.Moved, t.Why = formatBytes(r.BytesSent)+" sent, "+formatBytes(r.BytesSkipped)+" found equal or empty", r.Kind+": "+whyKind(r)
				t.Done = percentOf(r.BytesSent+r.BytesSkipped, r.BytesTotal)
			case m.State == "Mirroring":
				t.Moved, t.Why = "0 B sent", "none: nothing differed"
			}
			all = all && m.State != "Resync" && (m.State != "ResyncPending" || !st.reachable(m.Target))
			list = append(list, t)
		}
	} else if over {
		all = false
	}
	switch {
	case data["Error"] != (*api.Error)(nil):
		say = "Switchover failed"
	case over && all:
		say = "Switchover done, all mirrors turned round"
	case over:
		say = "Switchover done, mirrors are being turned round"
	}
	data["Turned"], data["All"] = list, over && all
	return []block{{id: "task", html: p.s.part("task", data), say: say}}, nil
}
