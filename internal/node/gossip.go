package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/peer"
)

// Peers tell each other their state every second, and at once when it changes. That is how a target learns settings
// and terms while no stream connects it, how a starting source learns that somebody took over, and how every agent can
// show the whole cluster. Nothing depends on it arriving in time.
const (
	gossipEvery    = time.Second
	gossipPause    = 50 * time.Millisecond // between two exchanges with one peer, whatever changes
	gossipTimeout  = 3 * time.Second
	gossipBytesMax = 16 << 20
)

// nodeState is what one agent tells another.
type nodeState struct {
	Node    string                      `json:"node"`
	Volumes map[string]mirror.PeerInfo  `json:"volumes"` // by volume id
	Serves  map[string]api.VolumeStatus `json:"serves"`  // by volume id: status of those that it is source of

	Document string            `json:"document"` // digest of its cluster document
	Audit    map[string]uint64 `json:"audit"`    // up to which line it has the audit of each server

	Clock time.Duration `json:"clock"` // since its agent was started: limits of time are given in it, as clocks need not agree

	Copies    []string  `json:"copies"` // names of the volumes of which it has a copy
	CertEnds  time.Time `json:"certificate_ends"`
	CanInvite bool      `json:"can_invite"` // it has the key of the cluster's CA
}

// neighbour is another server as this one sees it.
type neighbour struct {
	n      *Node
	name   string
	addr   string
	http   *http.Client
	kicked chan struct{}
	ctx    context.Context // ends with stop
	stop   context.CancelFunc

	mu    sync.Mutex
	heard time.Time // of the last answer
	up    bool
	away  context.CancelFunc // ends reached; not nil while up
	why   string
	// reached ends when it cannot be reached any more; nil: it never was.
	reached context.Context
	serves  map[string]api.VolumeStatus
	copies  []string // names of the volumes of which it has a copy, as it said last

	certEnds  time.Time
	canInvite bool
}

func newNeighbour(n *Node, name, addr string) *neighbour {
	p := &neighbour{n: n, name: name, addr: addr, http: peer.HTTPClient(n.id, name, addr, n.peerOptions()), kicked: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(n.ctx)
	p.ctx, p.stop = ctx, func() { cancel(); p.http.CloseIdleConnections() }
	return p
}

// kick asks for an exchange now.
func (p *neighbour) kick() {
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

// api is the peer's control interface, for calls that are passed on.
func (p *neighbour) api() *api.Client {
	return api.NewClient(p.http, "https://"+p.addr, fmt.Sprintf("agent %s at %s", p.name, p.addr)).Via(p.n.cfg.Node)
}

func (p *neighbour) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.kicked:
		}
		p.exchange(ctx)
		timer.Reset(gossipEvery)
		select {
		case <-ctx.Done():
			return
		case <-time.After(gossipPause):
		}
	}
}

// exchange tells the peer this server's state and takes its own.
func (p *neighbour) exchange(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, gossipTimeout)
	defer cancel()
	var theirs nodeState
	err := p.post(ctx, "state", p.n.state(), &theirs)
	if err == nil && theirs.Node != p.name {
		err = fmt.Errorf("%s answers as %q", p.addr, theirs.Node)
	}
	if err != nil {
		p.lost(err)
		return
	}
	p.n.heard(p, theirs)
	if err := p.share(ctx, theirs); err != nil && ctx.Err() == nil {
		p.n.log.Warn("cluster document and audit are not shared", "peer", p.name, "err", err)
	}
}

func (p *neighbour) lost(err error) {
	p.mu.Lock()
	was := p.up
	p.up, p.why = false, err.Error()
	if was {
		p.away()
	}
	p.mu.Unlock()
	if was {
		p.n.log.Warn("peer lost", "peer", p.name, "err", err)
		p.n.events.Add(api.Event{Level: "warning", Object: "node " + p.name, Message: "cannot be reached: " + err.Error()})
	}
	for _, a := range p.n.all() {
		a.post(mirror.PeerLost{Node: p.name, Why: err.Error()})
	}
}

// heard takes a peer's state, answered or pushed.
func (n *Node) heard(p *neighbour, s nodeState) {
	if p == nil { // removed a moment ago
		return
	}
	p.mu.Lock()
	was := p.up
	if !was {
		p.reached, p.away = context.WithCancel(p.ctx)
	}
	p.up, p.heard, p.serves, p.copies, p.certEnds, p.canInvite = true, time.Now(), s.Serves, s.Copies, s.CertEnds.UTC(), s.CanInvite
	p.mu.Unlock()
	if !was {
		n.events.Add(api.Event{Level: "info", Object: "node " + p.name, Message: "is reachable"})
	}
	for _, a := range n.all() {
		info := s.Volumes[a.id]
		a.post(mirror.PeerSeen{Node: p.name, Info: info, Mine: a.v.Own()})
		if h := a.v.Header(); info.Serving && !info.Served.Less(h.Promised) && removed(info.Settings, h.Settings, n.cfg.Node) {
			n.leave(a, p.name)
		}
	}
	n.startMissed(s)
	n.wakeWatchers()
}

// removed reports whether settings that a peer has say that this server was removed. A copy that is being added has the settings of
// before, without itself: what others say in that version is from before it, and the next one has to be adopted, as it names the copy.
func removed(theirs, mine lineage.Settings, self string) bool {
	gone, own := theirs.Find(self), mine.Find(self)
	news := mine.Version.Compare(theirs.Version)
	return gone != nil && gone.Removed && (news < 0 || news == 0 && own != nil && own.Removed)
}

// wakeWatchers wakes whoever watches the status, without telling peers.
func (n *Node) wakeWatchers() {
	n.mu.Lock()
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
}

// state is what this server tells.
func (n *Node) state() nodeState {
	s := nodeState{Node: n.cfg.Node, Volumes: map[string]mirror.PeerInfo{}, Serves: map[string]api.VolumeStatus{},
		Document: n.cluster.Digest(), Audit: n.cluster.AuditHeads(), CertEnds: n.id.Leaf().NotAfter, CanInvite: n.ca.Load() != nil, Clock: time.Since(n.started)}
	for _, a := range n.all() {
		s.Volumes[a.id] = a.info()
		s.Copies = append(s.Copies, a.name)
		if a.view.Load().Role == lineage.RoleSource {
			s.Serves[a.id] = a.status(time.Now())
		}
	}
	return s
}

// info is what a peer has to know of this replica.
func (a *vol) info() mirror.PeerInfo {
	h, own, view := a.v.Header(), a.v.Own(), a.view.Load()
	gaveUp := ""
	if own.Consistent == "no" {
		gaveUp = a.v.UndoStatus().Reason
	}
	stuck := ""
	if view.Role == lineage.RoleSource && !view.Open && mirror.CannotOpen(view.Rule) {
		stuck = view.Rule
	}
	return mirror.PeerInfo{
		Stuck: stuck, Follows: a.follows(),
		GaveUp: gaveUp, Failed: own.Failed || a.failed() != nil, Foreign: own.Foreign,
		Known: true, Role: h.Role, Serving: view.Open && a.failed() == nil, Promised: h.Promised, Served: h.Served, Record: h.Record,
		Settings: h.Settings, History: own.History, Position: own.Position, Floor: own.Floor, Consistent: own.Consistent, Split: view.Split,
	}
}

// whileReached is ctx that ends also when the peer cannot be reached any more: a server that lost its power closes no connection.
func (p *neighbour) whileReached(ctx context.Context) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reached == nil {
		return inner, cancel
	}
	stop := context.AfterFunc(p.reached, cancel)
	return inner, func() { stop(); cancel() }
}

// following is a session of a source's.
type following struct {
	conn *peer.Conn
	who  string
}

// follows says which process of which server is connected as this volume's source; "" if none is. A connection that has ended counts
// for nothing, whatever its session still waits for.
func (a *vol) follows() string {
	f := a.followed.Load()
	if f == nil {
		return ""
	}
	select {
	case <-f.conn.Done():
		return ""
	default:
		return f.who
	}
}

// post sends a request to the peer's agent.
func (p *neighbour) post(ctx context.Context, call string, request, answer any) error {
	if p == nil {
		return errNoMember
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+p.addr+"/peer/v1/"+call, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := p.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	limited := io.LimitReader(response.Body, gossipBytesMax)
	if response.StatusCode != http.StatusOK {
		var doc api.ErrorDocument
		if err := json.NewDecoder(limited).Decode(&doc); err != nil || doc.Error == nil {
			return fmt.Errorf("%s answered %s", p.name, response.Status)
		}
		return doc.Error
	}
	return json.NewDecoder(limited).Decode(answer)
}
