package web

import (
	"context"
	"fmt"

	"keelson/internal/cluster"
	"keelson/internal/password"
)

// StoreUsers are the users that every member of the cluster has.
func StoreUsers(s *cluster.Store) Users { return storeUsers{s} }

type storeUsers struct{ store *cluster.Store }

func userOf(u cluster.User) User {
	return User{Name: u.Name, Role: Role(u.Role), Epoch: fmt.Sprint(u.Logins)}
}

// Verify implements Users.
func (s storeUsers) Verify(_ context.Context, name, given string) (User, bool) {
	u, ok := s.store.User(name)
	if !ok || u.Hash == "" {
		password.Waste(given)
		return User{}, false
	}
	good, _, err := password.Check(u.Hash, given)
	return userOf(u), err == nil && good
}

// Find implements Users.
func (s storeUsers) Find(name string) (User, bool) {
	u, ok := s.store.User(name)
	return userOf(u), ok
}

// List implements Users.
func (s storeUsers) List() []User {
	var out []User
	for _, u := range s.store.Users() {
		out = append(out, userOf(u))
	}
	return out
}
