package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"keelson/internal/api"
	"keelson/internal/cluster"
	"keelson/internal/config"
	"keelson/internal/peer"
)

// Rules of admitting servers.
const (
	ruleTokenUnknown = "token-unknown"
	ruleTokenUsed    = "token-used"
	ruleTokenExpired = "token-expired"
	ruleTokenName    = "token-name"
	ruleNodeExists   = "node-exists"
)

const inviteLasts = time.Hour // unless asked for otherwise

// joinRequest is what a server that joins says. docs/formats/join.md.
type joinRequest struct {
	Version int    `json:"version"`
	Secret  []byte `json:"secret"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Request []byte `json:"request"` // for a certificate, PKCS #10 DER
}

// joinAnswer is what it gets: an error, or all that a member needs.
type joinAnswer struct {
	Error       *api.Error `json:"error,omitempty"`
	Certificate []byte     `json:"certificate,omitempty"` // PEM
	CA          []byte     `json:"ca,omitempty"`          // PEM
	Cluster     string     `json:"cluster,omitempty"`
	Encryption  string     `json:"encryption,omitempty"` // as the server that invited has it
	Document    []byte     `json:"document,omitempty"`
}

const joinVersion = 1

// decodeJoin reads a request strictly. What is wrong in it is the stranger's to know.
func decodeJoin(data []byte) (*joinRequest, error) {
	r := new(joinRequest)
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(r); err != nil {
		return nil, api.Errorf(api.Usage, "", "the request to join cannot be understood")
	}
	var secret [16]byte
	switch {
	case r.Version != joinVersion:
		return nil, api.Errorf(api.Usage, "", "the request to join has version %d, this server knows %d", r.Version, joinVersion).WithNext("use the same version of keelson on both servers")
	case len(r.Secret) != len(secret):
		return nil, api.Refusal(ruleTokenUnknown, "", cluster.ErrTokenUnknown.Error(), "keelson node invite makes one")
	case peer.CheckNodeName(r.Name) != nil:
		return nil, api.Errorf(api.Usage, "", "%v", peer.CheckNodeName(r.Name))
	case cluster.CheckAddress(r.Address) != nil:
		return nil, api.Errorf(api.Usage, "node "+r.Name, "%v", cluster.CheckAddress(r.Address))
	}
	return r, nil
}

// joinCame answers a request to join. It is the only thing of the agent that somebody without a certificate reaches.
func (n *Node) joinCame(ctx context.Context, addr string, data []byte) []byte {
	answer, err := n.admit(ctx, addr, data)
	if err != nil {
		n.log.Warn("a server was not admitted", "from", addr, "err", err)
		answer = &joinAnswer{Error: api.AsError(err)}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return []byte("{}")
	}
	return text
}

func (n *Node) admit(ctx context.Context, addr string, data []byte) (*joinAnswer, error) {
	r, err := decodeJoin(data)
	if err != nil {
		return nil, err
	}
	object := "node " + r.Name
	key, id, err := peer.ReadRequest(r.Request)
	if err != nil {
		return nil, api.Errorf(api.Usage, object, "%v", err)
	}
	ca := n.ca.Load()
	if ca == nil {
		return nil, n.noCA(object)
	}
	known, err := false, error(cluster.ErrMember)
	if r.Name != n.cfg.Node && !n.configured(r.Name) {
		known, err = n.cluster.Redeem([16]byte(r.Secret), cluster.Member{Name: r.Name, Address: r.Address, Keys: []string{id}})
	}
	err = refusalOfToken(object, err)
	if known { // by a token of ours: others are noted in the log only, so that strangers cannot fill the audit
		who := api.WithCaller(ctx, api.Caller{Kind: api.CallerStranger, Name: r.Name, From: addr})
		n.noteAudit(who, api.Audited(who, "JoinNode", joined{r.Name, r.Address, id}, err))
	}
	if err != nil {
		return nil, err
	}
	certPEM, err := ca.Sign(r.Name, key, time.Duration(n.cfg.TLS.Lifetime))
	if err != nil {
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	doc, err := n.cluster.Document()
	if err != nil {
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	n.events.Add(api.Event{Level: "info", Object: object, Message: "joined the cluster, at " + r.Address})
	return &joinAnswer{Certificate: certPEM, CA: ca.PEM(), Cluster: ca.Cluster, Encryption: n.cfg.Encryption, Document: doc}, nil
}

// joined is what the audit shows of a request to join.
type joined struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Key     string `json:"key"`
}

// About names what is changed.
func (j joined) About() string { return "node " + j.Name }

// configured reports whether the configuration names that server, and nobody removed it.
func (n *Node) configured(name string) bool {
	m, _ := n.cluster.Member(name)
	return !m.Removed && slices.ContainsFunc(n.cfg.Peers, func(p config.Peer) bool { return p.Name == name })
}

func refusalOfToken(object string, err error) error {
	again := "ask for a new token: keelson node invite"
	for _, known := range []struct {
		err        error
		rule, next string
	}{
		{cluster.ErrTokenUnknown, ruleTokenUnknown, again}, {cluster.ErrTokenUsed, ruleTokenUsed, again},
		{cluster.ErrTokenExpired, ruleTokenExpired, again + "; or look at the clocks of both servers"},
		{cluster.ErrTokenName, ruleTokenName, "join by the name that the token is for"},
		{cluster.ErrMember, ruleNodeExists, "choose another name (--name), or remove that server first: keelson node remove"},
	} {
		if errors.Is(err, known.err) {
			return api.Refusal(known.rule, object, known.err.Error(), known.next)
		}
	}
	if err != nil {
		return api.Errorf(api.Failed, object, "%v", err)
	}
	return nil
}

func (n *Node) noCA(object string) error {
	return api.Refusal(ruleNoCAKey, object, n.cfg.Node+" does not have the key of the cluster's CA, "+n.cfg.TLS.CAKeyFile(),
		"invite at a server that has it (keelson node list), or put it there")
}

// InviteNode implements api.Service.
func (s *service) InviteNode(_ context.Context, r api.InviteNode) (*api.Invitation, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	n := s.n
	ca := n.ca.Load()
	if ca == nil {
		return nil, n.noCA(r.About())
	}
	if r.Name != "" {
		if err := peer.CheckNodeName(r.Name); err != nil {
			return nil, api.Errorf(api.Usage, r.About(), "%v", err)
		}
		if m, there := n.cluster.Member(r.Name); there && !m.Removed || r.Name == n.cfg.Node || n.configured(r.Name) {
			return nil, refusalOfToken(r.About(), cluster.ErrMember)
		}
	}
	self, _ := n.cluster.Member(n.cfg.Node)
	if err := cluster.CheckAddress(self.Address); err != nil {
		return nil, api.Errorf(api.Failed, "node "+n.cfg.Node, "%v", err).WithNext("set [listen] advertise in the configuration, and start the agent again")
	}
	lasts := inviteLasts
	if r.Seconds > 0 {
		lasts = time.Duration(r.Seconds) * time.Second
	}
	secret, ends, err := n.cluster.Invite(r.Name, lasts)
	if err != nil {
		return nil, api.Errorf(api.Failed, r.About(), "%v", err)
	}
	token := cluster.Token{Secret: secret, CA: ca.Fingerprint(), Ends: ends, Address: self.Address, Name: r.Name}
	if _, err := hex.Decode(token.Key[:], []byte(peer.KeyID(n.id.Leaf()))); err != nil {
		return nil, err
	}
	return &api.Invitation{Token: token.String(), Name: r.Name, Node: n.cfg.Node, Address: self.Address, Fingerprint: hex.EncodeToString(token.CA[:]), Ends: ends}, nil
}

// Nodes implements api.Service.
func (s *service) Nodes(context.Context) (*api.Nodes, error) {
	n, out := s.n, &api.Nodes{Nodes: []api.Node{}}
	status := n.status()
	add := func(x api.Node) {
		x.VolumesOf, x.SourceOf = []string{}, []string{}
		for _, v := range status.Volumes {
			if v.Source == x.Name {
				x.SourceOf = append(x.SourceOf, v.Name)
			}
			if v.Source == x.Name || slices.ContainsFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.Target == x.Name }) {
				x.VolumesOf = append(x.VolumesOf, v.Name)
			}
		}
		x.Configured = slices.ContainsFunc(n.cfg.Peers, func(p config.Peer) bool { return p.Name == x.Name })
		if p := n.peer(x.Name); p != nil {
			p.mu.Lock()
			x.Address, x.Reachable, x.LastHeard, x.WhyNot, x.CertEnds, x.CanInvite = p.addr, p.up, p.heard.UTC(), p.why, p.certEnds, p.canInvite
			if p.up {
				x.WhyNot = ""
			}
			p.mu.Unlock()
		}
		if x.Name == n.cfg.Node {
			x.Self, x.Reachable, x.CertEnds, x.CanInvite = true, true, n.id.Leaf().NotAfter.UTC(), n.ca.Load() != nil
		}
		out.Nodes = append(out.Nodes, x)
	}
	for _, m := range n.cluster.AllMembers() {
		add(api.Node{Name: m.Name, Address: m.Address, Admitted: m.Admitted, Removed: m.Removed, Keys: append([]string{}, m.Keys...), Changed: m.Changed, By: m.By})
	}
	for _, p := range n.neighbours() {
		if _, there := n.cluster.Member(p.name); !there {
			add(api.Node{Name: p.name, Address: p.addr, Admitted: cluster.ByConfig, Keys: []string{}})
		}
	}
	slices.SortFunc(out.Nodes, func(a, b api.Node) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
