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
