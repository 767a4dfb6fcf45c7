// Package apitest has a Service in memory for tests of what uses one.
package apitest

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"keelson/internal/api"
)

// Fake is an api.Service made of functions; one that is nil fails with "not faked".
type Fake struct {
	OnStatus       func(context.Context) (*api.Status, error)
	OnWatch        func(context.Context, func(*api.Status) error) error
	OnEvents       func(context.Context, api.EventsQuery, func(api.Event) error) error
	OnCreateVolume func(context.Context, api.CreateVolume) (*api.VolumeStatus, error)
	OnDeleteVolume func(context.Context, api.DeleteVolume) error
	OnSetVolume    func(context.Context, api.VolumeChange) (*api.VolumeStatus, error)
	OnChangeMirror func(context.Context, api.MirrorChange) (*api.VolumeStatus, error)
	OnChangeDevice func(context.Context, api.DeviceChange) (*api.DeviceResult, error)
	OnSplitBrain   func(context.Context, api.VolumeName) (*api.SplitBrain, error)
	OnResolve      func(context.Context, api.ResolveSplitBrain) error
	OnPlanResolve  func(context.Context, api.ResolveSplitBrain) (*api.ResolvePlan, error)
	OnSalvages     func(context.Context, api.VolumeName) (*api.Salvages, error)
	OnSalvage      func(context.Context, api.SalvageChange) (*api.SalvageResult, error)
	OnView         func(context.Context, api.ViewChange) (*api.View, error)
	OnAudit        func(context.Context, api.AuditQuery, func(api.AuditLine) error) error
	OnUsers        func(context.Context) (*api.Users, error)
	OnChangeUser   func(context.Context, api.UserChange) (*api.Users, error)
	OnCheck        func(context.Context, api.CheckQuery) (*api.CheckReport, error)
	OnClients      func(context.Context) (*api.AdmittedClients, error)
	OnChangeClient func(context.Context, api.ClientChange) (*api.ClientCard, error)
	OnHistory      func(context.Context, api.VolumeName) (*api.History, error)
	OnWebLink      func(context.Context) (*api.WebLink, error)
	OnNodes        func(context.Context) (*api.Nodes, error)
	OnInviteNode   func(context.Context, api.InviteNode) (*api.Invitation, error)
	OnRemoveNode   func(context.Context, api.RemoveNode) (*api.Removal, error)
	OnSwitchover   func(context.Context, api.Switchover, func(api.SwitchoverStep)) (*api.SwitchoverResult, error)
}

var _ api.Service = (*Fake)(nil)

func notFaked(call string) error { return api.Errorf(api.Failed, "call "+call, "not faked") }

// Status implements api.Service.
func (f *Fake) Status(ctx context.Context) (*api.Status, error) {
	if f.OnStatus == nil {
		return nil, notFaked("Status")
	}
	return f.OnStatus(ctx)
}

// Watch implements api.Service.
func (f *Fake) Watch(ctx context.Context, fn func(*api.Status) error) error {
	if f.OnWatch == nil {
		return notFaked("Watch")
	}
	return f.OnWatch(ctx, fn)
}

// Events implements api.Service.
func (f *Fake) Events(ctx context.Context, q api.EventsQuery, fn func(api.Event) error) error {
	if f.OnEvents == nil {
		return notFaked("Events")
	}
	return f.OnEvents(ctx, q, fn)
}

// CreateVolume implements api.Service.
func (f *Fake) CreateVolume(ctx context.Context, r api.CreateVolume) (*api.VolumeStatus, error) {
	if f.OnCreateVolume == nil {
		return nil, notFaked("CreateVolume")
	}
	return f.OnCreateVolume(ctx, r)
}

// DeleteVolume implements api.Service.
func (f *Fake) DeleteVolume(ctx context.Context, r api.DeleteVolume) error {
	if f.OnDeleteVolume == nil {
		return notFaked("DeleteVolume")
	}
	return f.OnDeleteVolume(ctx, r)
}

// SetVolume implements api.Service.
func (f *Fake) SetVolume(ctx context.Context, r api.VolumeChange) (*api.VolumeStatus, error) {
	if f.OnSetVolume == nil {
		return nil, notFaked("SetVolume")
	}
	return f.OnSetVolume(ctx, r)
}

// ChangeMirror implements api.Service.
func (f *Fake) ChangeMirror(ctx context.Context, r api.MirrorChange) (*api.VolumeStatus, error) {
	if f.OnChangeMirror == nil {
		return nil, notFaked("ChangeMirror")
	}
	return f.OnChangeMirror(ctx, r)
}

// Switchover implements api.Service.
func (f *Fake) Switchover(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
	if f.OnSwitchover == nil {
		return nil, notFaked("Switchover")
	}
	return f.OnSwitchover(ctx, r, step)
}

// Listen offers a Service at a unix socket until stop is called.
func Listen(path string, s api.Service) (stop func(), err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: api.NewHandler(s), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }() // ends with Close
	return func() { _ = server.Close(); <-done }, nil
}

// Serve offers a Service at a unix socket until the test ends.
func Serve(t testing.TB, path string, s api.Service) {
	t.Helper()
	stop, err := Listen(path, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// SplitBrain implements api.Service.
func (f *Fake) SplitBrain(ctx context.Context, r api.VolumeName) (*api.SplitBrain, error) {
	if f.OnSplitBrain == nil {
		return nil, notFaked("SplitBrain")
	}
	return f.OnSplitBrain(ctx, r)
}

// ResolveSplitBrain implements api.Service.
func (f *Fake) ResolveSplitBrain(ctx context.Context, r api.ResolveSplitBrain) error {
	if f.OnResolve == nil {
		return notFaked("ResolveSplitBrain")
	}
	return f.OnResolve(ctx, r)
}

// Salvages implements api.Service.
func (f *Fake) Salvages(ctx context.Context, r api.VolumeName) (*api.Salvages, error) {
	if f.OnSalvages == nil {
		return nil, notFaked("Salvages")
	}
	return f.OnSalvages(ctx, r)
}

// ChangeSalvage implements api.Service.
func (f *Fake) ChangeSalvage(ctx context.Context, r api.SalvageChange) (*api.SalvageResult, error) {
	if f.OnSalvage == nil {
		return nil, notFaked("ChangeSalvage")
	}
	return f.OnSalvage(ctx, r)
}

// ChangeView implements api.Service.
func (f *Fake) ChangeView(ctx context.Context, r api.ViewChange) (*api.View, error) {
	if f.OnView == nil {
		return nil, notFaked("ChangeView")
	}
	return f.OnView(ctx, r)
}

// PlanResolve implements api.Service.
func (f *Fake) PlanResolve(ctx context.Context, r api.ResolveSplitBrain) (*api.ResolvePlan, error) {
	if f.OnPlanResolve == nil {
		return nil, notFaked("PlanResolve")
	}
	return f.OnPlanResolve(ctx, r)
}

// History implements api.Service.
func (f *Fake) History(ctx context.Context, r api.VolumeName) (*api.History, error) {
	if f.OnHistory == nil {
		return nil, notFaked("History")
	}
	return f.OnHistory(ctx, r)
}

// WebLink implements api.Service.
func (f *Fake) WebLink(ctx context.Context) (*api.WebLink, error) {
	if f.OnWebLink == nil {
		return nil, notFaked("WebLink")
	}
	return f.OnWebLink(ctx)
}

// ChangeDevice implements api.Service.
func (f *Fake) ChangeDevice(ctx context.Context, r api.DeviceChange) (*api.DeviceResult, error) {
	if f.OnChangeDevice == nil {
		return nil, notFaked("ChangeDevice")
	}
	return f.OnChangeDevice(ctx, r)
}

// Check implements api.Service.
func (f *Fake) Check(ctx context.Context, q api.CheckQuery) (*api.CheckReport, error) {
	if f.OnCheck == nil {
		return nil, notFaked("Check")
	}
	return f.OnCheck(ctx, q)
}
