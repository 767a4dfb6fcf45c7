package apitest

import (
	"context"

	"keelson/internal/api"
)

// Audit implements api.Service.
func (f *Fake) Audit(ctx context.Context, q api.AuditQuery, fn func(api.AuditLine) error) error {
	if f.OnAudit == nil {
		return notFaked("Audit")
	}
	return f.OnAudit(ctx, q, fn)
}

// Users implements api.Service.
func (f *Fake) Users(ctx context.Context) (*api.Users, error) {
	if f.OnUsers == nil {
		return nil, notFaked("Users")
	}
	return f.OnUsers(ctx)
}

// ChangeUser implements api.Service.
func (f *Fake) ChangeUser(ctx context.Context, r api.UserChange) (*api.Users, error) {
	if f.OnChangeUser == nil {
		return nil, notFaked("ChangeUser")
	}
	return f.OnChangeUser(ctx, r)
}

// Nodes implements api.Service.
func (f *Fake) Nodes(ctx context.Context) (*api.Nodes, error) {
	if f.OnNodes == nil {
		return nil, notFaked("Nodes")
	}
	return f.OnNodes(ctx)
}

// InviteNode implements api.Service.
func (f *Fake) InviteNode(ctx context.Context, r api.InviteNode) (*api.Invitation, error) {
	if f.OnInviteNode == nil {
		return nil, notFaked("InviteNode")
	}
	return f.OnInviteNode(ctx, r)
}

// RemoveNode implements api.Service.
func (f *Fake) RemoveNode(ctx context.Context, r api.RemoveNode) (*api.Removal, error) {
	if f.OnRemoveNode == nil {
		return nil, notFaked("RemoveNode")
	}
	return f.OnRemoveNode(ctx, r)
}

// Clients implements api.Service.
func (f *Fake) Clients(ctx context.Context) (*api.AdmittedClients, error) {
	if f.OnClients == nil {
		return nil, notFaked("Clients")
	}
	return f.OnClients(ctx)
}

// ChangeClient implements api.Service.
func (f *Fake) ChangeClient(ctx context.Context, r api.ClientChange) (*api.ClientCard, error) {
	if f.OnChangeClient == nil {
		return nil, notFaked("ChangeClient")
	}
	return f.OnChangeClient(ctx, r)
}
