package main

import (
	"context"
	"errors"

	"keelson/internal/api"
)

func someUsers(context.Context) (*api.Users, error) {
	return &api.Users{Users: []api.User{{Name: "anna", Role: "administrator", Password: true}, {Name: "berta", Role: "viewer"}}}, nil
}

func changedUser(ctx context.Context, r api.UserChange) (*api.Users, error) {
	if r.Name == "zoe" {
		return nil, api.Refusal("unknown-user", "user zoe", "there is no such user", "keelson user list shows those that there are")
	}
	if r.Password != "" && r.Password != "correct horse battery" {
		return nil, api.Errorf(api.Failed, "user "+r.Name, "the password came as %q", r.Password)
	}
	return someUsers(ctx)
}

func someAudit(_ context.Context, q api.AuditQuery, fn func(api.AuditLine) error) error {
	if q.Object != "" && q.Object != "volume data" {
		return nil
	}
	return errors.Join(
		fn(api.AuditLine{Node: "a", Seq: 1, Time: at(0), Kind: "local", Who: "root", From: "uid 0", What: "Switchover", Object: "volume data", Detail: `{"to":"b"}`, Result: "done"}),
		fn(api.AuditLine{Node: "b", Seq: 1, Time: at(1), Kind: "page", Who: "anna", From: "10.0.0.9", What: "Switchover", Object: "volume data", Result: "refused", Rule: "needs-force", Message: "its source is dead"}))
}
