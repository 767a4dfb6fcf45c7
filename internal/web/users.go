package web

import "context"

// Role says what a user of the page may do. Each may do what the ones before it may.
type Role string

// The roles.
const (
	Viewer        Role = "viewer"        // look
	Operator      Role = "operator"      // switch over as planned, pause and continue mirrors, accept a new source
	Administrator Role = "administrator" // everything
)

// rank orders the roles; an unknown one may do nothing.
func (r Role) rank() int {
	switch r {
	case Viewer:
		return 1
	case Operator:
		return 2
	case Administrator:
		return 3
	}
	return 0
}

// May reports whether the role is enough where that one is needed.
func (r Role) May(needed Role) bool { return r.rank() > 0 && r.rank() >= needed.rank() }

// User is who uses the page.
type User struct {
	Name string
	Role Role
	// Epoch changes with the password and the role: sessions of an older one are over.
	Epoch string
}

// Users are the users, the same on every server of the cluster. They are changed by api.Service.
type Users interface {
	// Verify returns the user if the password is theirs; else ok is false. It takes about as long for a name that does not exist.
	Verify(ctx context.Context, name, password string) (u User, ok bool)
	// Find returns the user as they are now; ok is false for one who was removed.
	Find(name string) (u User, ok bool)
	// List returns all, by name.
	List() []User
}
