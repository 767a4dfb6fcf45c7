package api

import (
	"context"
	"slices"
	"strings"
	"time"
)

// User is a user of the page.
type User struct {
	Name     string    `json:"name"`
	Role     string    `json:"role"`     // administrator | operator | viewer
	Password bool      `json:"password"` // has one; without it only a link lets the user in
	Changed  time.Time `json:"changed"`
	By       string    `json:"by"` // the server on which that was
}

// Users are all users of the page, by name.
type Users struct {
	Users []User `json:"users"`
}

// UserActions are the values of UserChange.Action.
var UserActions = []string{"add", "role", "passwd", "remove"}

// UserChange adds, changes or removes a user of the page, on every member.
type UserChange struct {
	Action   string `json:"action"`
	Name     string `json:"name"`
	Role     string `json:"role,omitempty"`     // add, role
	Password string `json:"password,omitempty"` // add, passwd: in the clear, over the agent's socket or TLS; kept as a hash
}

// Check finds what is wrong in the request without knowing anything else.
func (r UserChange) Check() error {
	object := "user " + r.Name
	switch {
	case !slices.Contains(UserActions, r.Action):
		return Errorf(Usage, object, "action %q is none of %s", r.Action, strings.Join(UserActions, ", "))
	case r.Name == "":
		return Errorf(Usage, "", "no user is named")
	case r.Role == "" && (r.Action == "add" || r.Action == "role"):
		return Errorf(Usage, object, "no role is named").WithNext("use administrator, operator or viewer")
	case r.Role != "" && r.Action != "add" && r.Action != "role":
		return Errorf(Usage, object, "only add and role take a role")
	case r.Password == "" && r.Action == "passwd":
		return Errorf(Usage, object, "no password is given")
	case r.Password != "" && r.Action != "add" && r.Action != "passwd":
		return Errorf(Usage, object, "only add and passwd take a password")
	}
	return nil
}

// About names what is changed.
func (r UserChange) About() string { return "user " + r.Name }

// Public is the request without its secret.
func (r UserChange) Public() any {
	if r.Password != "" {
		r.Password = "(not shown)"
	}
	return r
}

// Node is a server of the cluster.
type Node struct {
	Name       string    `json:"name"`
	Address    string    `json:"address"`
	Admitted   string    `json:"admitted"` // invite: by a token; config: named in [[peer]]
	Removed    bool      `json:"removed"`
	Self       bool      `json:"self"` // the server asked
	Reachable  bool      `json:"reachable"`
	Keys       []string  `json:"keys"`                      // identities of its certificates
	CertEnds   time.Time `json:"certificate_ends,omitzero"` // as it said last
	Changed    time.Time `json:"changed,omitzero"`
	By         string    `json:"by"`
	CanInvite  bool      `json:"can_invite"` // of the server asked: it has the key of the cluster's CA
	LastHeard  time.Time `json:"heard,omitzero"`
	WhyNot     string    `json:"why,omitempty"` // of one that is not reachable
	VolumesOf  []string  `json:"volumes"`       // volumes with a copy there, as far as the server asked knows
	SourceOf   []string  `json:"source_of"`
	Configured bool      `json:"configured"` // named in [[peer]] of the server asked
}

// Nodes are all servers, by name.
type Nodes struct {
	Nodes []Node `json:"nodes"`
}

// InviteNode asks for a one-time token that admits a server.
type InviteNode struct {
	Name    string `json:"name,omitempty"` // only a server of this name; "": the server says its own
	Seconds int64  `json:"seconds"`        // until the token ends; 0: an hour
}

// InviteSecondsMax is the longest time for which a token can be good.
const InviteSecondsMax = 7 * 24 * 3600

// Check finds what is wrong in the request without knowing anything else.
func (r InviteNode) Check() error {
	if r.Seconds < 0 || r.Seconds > InviteSecondsMax {
		return Errorf(Usage, "", "a token for %d seconds: at most %d", r.Seconds, InviteSecondsMax)
	}
	return nil
}

// About names what is changed.
func (r InviteNode) About() string {
	if r.Name == "" {
		return "cluster"
	}
	return "node " + r.Name
}

// Invitation is a token. It is shown once and kept only as a hash.
type Invitation struct {
	Token       string    `json:"token"`
	Name        string    `json:"name,omitempty"`
	Node        string    `json:"node"`    // the server at which it is good
	Address     string    `json:"address"` // of that server
	Fingerprint string    `json:"fingerprint"`
	Ends        time.Time `json:"ends"`
}

// RemoveNode shuts a server out.
type RemoveNode struct {
	Name  string `json:"name"`
	Force bool   `json:"force"` // although it is source of volumes
}

// Check finds what is wrong in the request without knowing anything else.
func (r RemoveNode) Check() error {
	if r.Name == "" {
		return Errorf(Usage, "", "no server is named")
	}
	return nil
}

// About names what is changed.
func (r RemoveNode) About() string { return "node " + r.Name }

// Removal says what became of a removed server's copies.
type Removal struct {
	Name    string   `json:"name"`
	Mirrors []string `json:"mirrors"` // volumes whose mirror to it was removed
	Left    []string `json:"left"`    // volumes for which that is still to be done, each with the reason
	Told    []string `json:"told"`    // servers that know of it already; the others learn it when they are reached
}

// Users implements Service.
func (c *Client) Users(ctx context.Context) (*Users, error) {
	return call[Users](ctx, c, "Users", Nothing{})
}

// ChangeUser implements Service.
func (c *Client) ChangeUser(ctx context.Context, r UserChange) (*Users, error) {
	return call[Users](ctx, c, "ChangeUser", r)
}

// Nodes implements Service.
func (c *Client) Nodes(ctx context.Context) (*Nodes, error) {
	return call[Nodes](ctx, c, "Nodes", Nothing{})
}

// InviteNode implements Service.
func (c *Client) InviteNode(ctx context.Context, r InviteNode) (*Invitation, error) {
	return call[Invitation](ctx, c, "InviteNode", r)
}

// RemoveNode implements Service.
func (c *Client) RemoveNode(ctx context.Context, r RemoveNode) (*Removal, error) {
	return call[Removal](ctx, c, "RemoveNode", r)
}
