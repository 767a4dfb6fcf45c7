package node

import (
	"context"

	"keelson/internal/api"
	"keelson/internal/cluster"
	"keelson/internal/password"
)

// Rules of users.
const (
	ruleUserExists  = "user-exists"
	ruleUnknownUser = "unknown-user"
)

// noteAudit is the agent's api.Auditor: a line that cannot be kept is an event, and what was done stays done.
func (n *Node) noteAudit(_ context.Context, l api.AuditLine) {
	err := n.cluster.Audit(cluster.Line{Kind: l.Kind, Who: l.Who, From: l.From, What: l.What, Object: l.Object, Detail: l.Detail,
		Result: l.Result, Rule: l.Rule, Message: l.Message})
	if err != nil {
		n.log.Error("a line of audit could not be kept", "who", l.Who, "what", l.What, "object", l.Object, "result", l.Result, "err", err)
		n.events.Add(api.Event{Level: "error", Object: "audit", Message: "a line could not be kept (" + l.What + " by " + l.Who + "): " + err.Error(),
			Next: "look at the disk of the state directory"})
		return
	}
	for _, p := range n.neighbours() {
		p.kick()
	}
}

// Auditor is where calls that do not come by the agent's own HTTP servers are noted (the page).
func (n *Node) Auditor() api.Auditor { return n.noteAudit }

// Cluster is the store of what every member has.
func (n *Node) Cluster() *cluster.Store { return n.cluster }

// Audit implements api.Service.
func (s *service) Audit(_ context.Context, q api.AuditQuery, fn func(api.AuditLine) error) error {
	lines, err := s.n.cluster.AuditQuery(cluster.AuditQuery{Node: q.Node, Who: q.Who, Object: q.Object, Since: q.Since, Limit: q.Limit})
	if err != nil {
		return api.Errorf(api.Failed, "audit", "%v", err)
	}
	for _, l := range lines {
		if err := fn(api.AuditLine(l)); err != nil {
			return err
		}
	}
	return nil
}

// Users implements api.Service.
func (s *service) Users(context.Context) (*api.Users, error) {
	out := &api.Users{Users: []api.User{}}
	for _, u := range s.n.cluster.Users() {
		out.Users = append(out.Users, api.User{Name: u.Name, Role: u.Role, Password: u.Hash != "", Changed: u.Changed, By: u.By})
	}
	return out, nil
}

// ChangeUser implements api.Service.
func (s *service) ChangeUser(ctx context.Context, r api.UserChange) (*api.Users, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	object := r.About()
	if err := cluster.CheckUserName(r.Name); err != nil {
		return nil, api.Errorf(api.Usage, object, "%v", err)
	}
	u, there := s.n.cluster.User(r.Name)
	switch {
	case r.Action == "add" && there:
		return nil, api.Refusal(ruleUserExists, object, "there is such a user already", "keelson user passwd, or keelson user role, changes one")
	case r.Action != "add" && !there:
		return nil, api.Refusal(ruleUnknownUser, object, "there is no such user", "keelson user list shows those that there are")
	}
	u.Name = r.Name
	if r.Role != "" {
		if err := cluster.CheckRole(r.Role); err != nil {
			return nil, api.Errorf(api.Usage, object, "%v", err)
		}
		u.Role = r.Role
	}
	if r.Password != "" {
		hash, err := password.Hash(r.Password)
		if err != nil {
			return nil, api.Errorf(api.Usage, object, "%v", err)
		}
		u.Hash = hash
	}
	change := func() error { return s.n.cluster.SetUser(u) }
	if r.Action == "remove" {
		change = func() error { return s.n.cluster.RemoveUser(r.Name) }
	}
	if err := change(); err != nil {
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	s.n.bump()
	return s.Users(ctx)
}
