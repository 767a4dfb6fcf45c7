package api

import (
	"context"
	"reflect"
)

// Call is one call of the Service as it is offered over HTTP: POST /v1/NAME with the request as JSON. A plain call is
// answered by its result as JSON. A stream (Item is set) is answered by lines of JSON, each a Line.
type Call struct {
	Name    string
	Doc     string
	Request reflect.Type
	Item    reflect.Type // of a stream; nil otherwise
	Result  reflect.Type // nil: an empty object
	Changes bool         // false: only looks

	serve func(ctx context.Context, s Service, decode func(any) error, emit func(any) error) (any, error)
}

// Line is one line of a stream: items, then, as the last line, the result or the error. A stream that ends without it
// was cut off.
type Line[Item, Result any] struct {
	Item   *Item   `json:"item,omitempty"`
	Result *Result `json:"result,omitempty"`
	Error  *Error  `json:"error,omitempty"`
}

// Nothing is an empty request or result.
type Nothing struct{}

// Calls are all calls, in the order in which a reference lists them.
func Calls() []Call { return append([]Call(nil), calls...) }

var calls = []Call{
	plain("Status", "What the agent knows: servers, volumes, mirrors.", false,
		func(ctx context.Context, s Service, _ Nothing) (*Status, error) { return s.Status(ctx) }),
	stream("Watch", "The status now and after every change, at most ten times a second.", false,
		func(ctx context.Context, s Service, _ Nothing, item func(*Status) error) (*Nothing, error) {
			return &Nothing{}, s.Watch(ctx, item)
		}),
	stream("Events", "Events that are kept, oldest first, and new ones if asked to follow.", false,
		func(ctx context.Context, s Service, q EventsQuery, item func(*Event) error) (*Nothing, error) {
			return &Nothing{}, s.Events(ctx, q, func(e Event) error { return item(&e) })
		}),
	plain("CreateVolume", "Makes a volume: one source, any number of targets.", true,
		func(ctx context.Context, s Service, r CreateVolume) (*VolumeStatus, error) {
			return s.CreateVolume(ctx, r)
		}),
	plain("DeleteVolume", "Ends the replication of a volume; the copies stay on the servers' disks.", true,
		func(ctx context.Context, s Service, r DeleteVolume) (*Nothing, error) {
			return &Nothing{}, s.DeleteVolume(ctx, r)
		}),
	plain("SetVolume", "Changes settings of a volume as a whole.", true,
		func(ctx context.Context, s Service, r VolumeChange) (*VolumeStatus, error) {
			return s.SetVolume(ctx, r)
		}),
	plain("ChangeMirror", "Adds, sets, pauses, continues, breaks, resyncs or removes a mirror.", true,
		func(ctx context.Context, s Service, r MirrorChange) (*VolumeStatus, error) {
			return s.ChangeMirror(ctx, r)
		}),
	plain("ChangeDevice", "Attaches a block device of the kernel to a volume, or detaches it.", true,
		func(ctx context.Context, s Service, r DeviceChange) (*DeviceResult, error) {
			return s.ChangeDevice(ctx, r)
		}),
	plain("SplitBrain", "Both sides of a volume whose replicas went on without each other.", false,
		func(ctx context.Context, s Service, r VolumeName) (*SplitBrain, error) { return s.SplitBrain(ctx, r) }),
	plain("ResolveSplitBrain", "Keeps one side; what the other has besides goes to a salvage.", true,
		func(ctx context.Context, s Service, r ResolveSplitBrain) (*Nothing, error) {
			return &Nothing{}, s.ResolveSplitBrain(ctx, r)
		}),
	plain("PlanResolve", "What keeping one side would give up.", false,
		func(ctx context.Context, s Service, r ResolveSplitBrain) (*ResolvePlan, error) {
			return s.PlanResolve(ctx, r)
		}),
	plain("Salvages", "Content of a volume that replicas gave up, and that is kept.", false,
		func(ctx context.Context, s Service, r VolumeName) (*Salvages, error) { return s.Salvages(ctx, r) }),
	plain("ChangeSalvage", "Exports, applies or deletes a salvage.", true,
		func(ctx context.Context, s Service, r SalvageChange) (*SalvageResult, error) {
			return s.ChangeSalvage(ctx, r)
		}),
	plain("ChangeView", "Attaches or detaches a read-only view of a copy or a salvage.", true,
		func(ctx context.Context, s Service, r ViewChange) (*View, error) { return s.ChangeView(ctx, r) }),
	stream("Audit", "Who did what, on every server, oldest first.", false,
		func(ctx context.Context, s Service, q AuditQuery, item func(*AuditLine) error) (*Nothing, error) {
			return &Nothing{}, s.Audit(ctx, q, func(l AuditLine) error { return item(&l) })
		}),
	plain("Users", "The users of the page.", false,
		func(ctx context.Context, s Service, _ Nothing) (*Users, error) { return s.Users(ctx) }),
	plain("ChangeUser", "Adds, changes or removes a user of the page, on every server.", true,
		func(ctx context.Context, s Service, r UserChange) (*Users, error) { return s.ChangeUser(ctx, r) }),
	plain("Check", "What works and what would not: servers, the network between them, what copies stand on; or whether a server may be rebooted.", false,
		func(ctx context.Context, s Service, q CheckQuery) (*CheckReport, error) { return s.Check(ctx, q) }),
	plain("History", "The last hour of a volume in figures, and who was its source when.", false,
		func(ctx context.Context, s Service, r VolumeName) (*History, error) { return s.History(ctx, r) }),
	plain("WebLink", "A one-time address that lets its holder in to the page as administrator.", true,
		func(ctx context.Context, s Service, _ LinkRequest) (*WebLink, error) { return s.WebLink(ctx) }),
	plain("Clients", "The clients of NBD over TCP with TLS.", false,
		func(ctx context.Context, s Service, _ Nothing) (*AdmittedClients, error) { return s.Clients(ctx) }),
	plain("ChangeClient", "Admits a client of NBD over TCP with TLS, or removes one, on every server.", true,
		func(ctx context.Context, s Service, r ClientChange) (*ClientCard, error) {
			return s.ChangeClient(ctx, r)
		}),
	plain("Nodes", "The servers of the cluster, removed ones included.", false,
		func(ctx context.Context, s Service, _ Nothing) (*Nodes, error) { return s.Nodes(ctx) }),
	plain("InviteNode", "Makes a one-time token that admits a server.", true,
		func(ctx context.Context, s Service, r InviteNode) (*Invitation, error) { return s.InviteNode(ctx, r) }),
	plain("RemoveNode", "Shuts a server out, at once and for good.", true,
		func(ctx context.Context, s Service, r RemoveNode) (*Removal, error) { return s.RemoveNode(ctx, r) }),
	stream("Switchover", "Makes another server the source, or shows the steps.", true,
		func(ctx context.Context, s Service, r Switchover, item func(*SwitchoverStep) error) (*SwitchoverResult, error) {
			return s.Switchover(ctx, r, func(step SwitchoverStep) { _ = item(&step) }) // who asked may be gone: the switchover goes on
		}),
}

// plain makes the Call of a function with a request and a result.
func plain[Request, Result any](name, doc string, changes bool, f func(context.Context, Service, Request) (*Result, error)) Call {
	return Call{Name: name, Doc: doc, Request: reflect.TypeFor[Request](), Result: reflect.TypeFor[Result](), Changes: changes,
		serve: func(ctx context.Context, s Service, decode func(any) error, _ func(any) error) (any, error) {
			var r Request
			if err := decode(&r); err != nil {
				return nil, err
			}
			return f(ctx, s, r)
		}}
}

// stream makes the Call of a function that gives items before its result.
func stream[Request, Item, Result any](name, doc string, changes bool, f func(context.Context, Service, Request, func(*Item) error) (*Result, error)) Call {
	return Call{Name: name, Doc: doc, Request: reflect.TypeFor[Request](), Item: reflect.TypeFor[Item](), Result: reflect.TypeFor[Result](), Changes: changes,
		serve: func(ctx context.Context, s Service, decode func(any) error, emit func(any) error) (any, error) {
			var r Request
			if err := decode(&r); err != nil {
				return nil, err
			}
			result, err := f(ctx, s, r, func(item *Item) error { return emit(&Line[Item, Result]{Item: item}) })
			if err != nil {
				return nil, err
			}
			return &Line[Item, Result]{Result: result}, nil
		}}
}
