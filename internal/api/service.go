package api

import "context"

// Service is what an agent offers. The server exposes it over HTTP, the client implements it over HTTP, so that
// the command line, another agent and a test use the same contract. Errors are *Error.
type Service interface {
	Status(ctx context.Context) (*Status, error)
	// Watch calls fn with the status now and after every change (at most 10 times a second), until ctx ends or fn fails.
	Watch(ctx context.Context, fn func(*Status) error) error
	// Events calls fn for each kept event, oldest first, and with Follow for each new one.
	Events(ctx context.Context, q EventsQuery, fn func(Event) error) error

	CreateVolume(ctx context.Context, r CreateVolume) (*VolumeStatus, error)
	DeleteVolume(ctx context.Context, r DeleteVolume) error
	// SetVolume changes settings of a volume as a whole.
	SetVolume(ctx context.Context, r VolumeChange) (*VolumeStatus, error)
	ChangeMirror(ctx context.Context, r MirrorChange) (*VolumeStatus, error)
	ChangeDevice(ctx context.Context, r DeviceChange) (*DeviceResult, error)
	// SplitBrain shows both sides of a volume; Resolve chooses, PlanResolve says what that would give up.
	SplitBrain(ctx context.Context, r VolumeName) (*SplitBrain, error)
	ResolveSplitBrain(ctx context.Context, r ResolveSplitBrain) error
	PlanResolve(ctx context.Context, r ResolveSplitBrain) (*ResolvePlan, error)
	Salvages(ctx context.Context, r VolumeName) (*Salvages, error)
	ChangeSalvage(ctx context.Context, r SalvageChange) (*SalvageResult, error)
	// ChangeView attaches or detaches a read-only view of a copy or a salvage.
	ChangeView(ctx context.Context, r ViewChange) (*View, error)
	// Check says what works and what would not, before something is made or a server is rebooted.
	Check(ctx context.Context, q CheckQuery) (*CheckReport, error)
	// History is the last hour of a volume in figures, and who was its source when.
	History(ctx context.Context, r VolumeName) (*History, error)
	// WebLink makes a one-time address of the page.
	WebLink(ctx context.Context) (*WebLink, error)
	// Switchover calls step as steps begin and end.
	Switchover(ctx context.Context, r Switchover, step func(SwitchoverStep)) (*SwitchoverResult, error)

	// Audit calls fn for each line of all servers, oldest first.
	Audit(ctx context.Context, q AuditQuery, fn func(AuditLine) error) error
	// Users of the page, and changes of them; both return all that there are then.
	Users(ctx context.Context) (*Users, error)
	ChangeUser(ctx context.Context, r UserChange) (*Users, error)
	// Clients are those of NBD over TCP with TLS, on every member; ChangeClient admits or removes one.
	Clients(ctx context.Context) (*AdmittedClients, error)
	ChangeClient(ctx context.Context, r ClientChange) (*ClientCard, error)
	// Nodes are the servers of the cluster; InviteNode makes a token that admits one, RemoveNode shuts one out.
	Nodes(ctx context.Context) (*Nodes, error)
	InviteNode(ctx context.Context, r InviteNode) (*Invitation, error)
	RemoveNode(ctx context.Context, r RemoveNode) (*Removal, error)
}

// Code classifies an error; it is the exit code of the command line (CONTRACT: 0 done ... 5).
type Code int

// The codes.
const (
	Failed      Code = 1 // the message says what, on which object, why, and what to do next
	Usage       Code = 2 // wrong parameters; nothing was changed
	Refused     Code = 3 // by a rule; nothing was changed
	Unfinished  Code = 4 // not within the time limit; it goes on
	Unreachable Code = 5 // the agent can't be reached
)

// Error is every error of the Service.
type Error struct {
	Code    Code   `json:"code"`
	Rule    string `json:"rule,omitempty"` // of a refusal
	Object  string `json:"object,omitempty"`
	Message string `json:"message"`
	Next    string `json:"next,omitempty"` // what to do next
	Waits   string `json:"waits_for,omitempty"`
}

// Error is the sentence for people.
func (e *Error) Error() string {
	s := e.Message
	if e.Object != "" {
		s = e.Object + ": " + s
	}
	if e.Rule != "" {
		s += " (rule " + e.Rule + ")"
	}
	if e.Next != "" {
		s += "; " + e.Next
	}
	return s
}
