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

// Users implements Service.
func (c *Client) Users(ctx context.Context) (*Users, error) {
	return call[Users](ctx, c, "Users", Nothing{})
}

// ChangeUser implements Service.
func (c *Client) ChangeUser(ctx context.Context, r UserChange) (*Users, error) {
	return call[Users](ctx, c, "ChangeUser", r)
}
