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
func someNodes(context.Context) (*api.Nodes, error) {
	return &api.Nodes{Nodes: []api.Node{
		{Name: "a", Address: "10.0.0.1:7401", Admitted: "invite", Self: true, Reachable: true, CertEnds: at(0), VolumesOf: []string{"data"}, SourceOf: []string{"data"}},
		{Name: "b", Address: "10.0.0.2:7401", Admitted: "invite", VolumesOf: []string{"data"}},
		{Name: "c", Address: "10.0.0.3:7401", Admitted: "invite", Removed: true},
	}}, nil
}

func invited(_ context.Context, r api.InviteNode) (*api.Invitation, error) {
	if r.Name == "a" {
		return nil, api.Refusal("node-exists", "node a", "there is a member of that name already", "choose another name")
	}
	return &api.Invitation{Token: "keelson-join-AQ", Name: r.Name, Node: "a", Address: "10.0.0.1:7401", Fingerprint: "00ff", Ends: at(int(r.Seconds))}, nil
}

func removedNode(_ context.Context, r api.RemoveNode) (*api.Removal, error) {
	if r.Name == "a" && !r.Force {
		return nil, api.Refusal("removes-source", "node a", "is the source of data", "switch over first")
	}
	return &api.Removal{Name: r.Name, Mirrors: []string{"data"}, Left: []string{"logs: its source is dead"}, Told: []string{"b"}}, nil
}

func someClients(context.Context) (*api.AdmittedClients, error) {
	return &api.AdmittedClients{Clients: []api.AdmittedClient{{Name: "vm", Key: "00ff", Changed: at(0), By: "a"}}}, nil
}

func changedClient(_ context.Context, r api.ClientChange) (*api.ClientCard, error) {
	if r.Action == "add" && r.Name == "vm" {
		return nil, api.Refusal("client-exists", "client vm", "there is such a client already", "choose another name")
	}
	return &api.ClientCard{Name: r.Name, Certificate: "cert", CA: "ca"}, nil
}
