// Package mirror is the state machine of one volume at one server: who is source, which mirrors run, who is in sync,
// and each step of a hand-over. It is pure: Step takes an event and returns effects, which the shell (package node)
// carries out one after the other.
//
// Order of durability, stated once: effects are carried out in the order of the slice, and Save and BecomeSource are
// durable before the next effect begins. If one fails, the rest of the slice is dropped and the shell stops serving the volume.
package mirror

import (
	"time"

	"keelson/internal/lineage"
)

// Config are the limits of the machine, all from the agent's configuration.
type Config struct {
	Self        string
	Incarnation string        // of this process, as its hellos say it
	HoldMax     time.Duration // how long a planned switchover may hold writes before it is given up (default 10 s)
	JoinWait    time.Duration // how long a new or restarted source waits for each member before it records it as lost (default 5 s)
	BootWait    time.Duration // how long a starting source waits for peers before it says that it stays closed (default 30 s)
	RetryMin    time.Duration // back-off of dialing a target and of repeating a token (default 100 ms .. 5 s)
	RetryMax    time.Duration
	ShrinkAfter time.Duration // how long an answer waits for a member whose session is down before the record shrinks (default 0: at once)
	FenceMax    time.Duration // how long a forced take-over waits for the promises of the other servers (default 3 s)

	omit string // tests only: the protection that is left out, to show that the tests notice
}

// PeerInfo is what a peer's agent reports of its replica of the volume.
type PeerInfo struct {
	Known      bool             `json:"known"` // false: this server has no replica of the volume
	Role       lineage.Role     `json:"role"`
	Serving    bool             `json:"serving"` // its device is open, or opening
	Promised   lineage.Term     `json:"promised"`
	Served     lineage.Term     `json:"served"`
	Record     lineage.Record   `json:"record"`
	Settings   lineage.Settings `json:"settings"`
	History    lineage.History  `json:"history"`
	Position   lineage.Position `json:"position"`
	Floor      lineage.Position `json:"floor"`
	Consistent string           `json:"consistent"`
	GaveUp     string           `json:"gave_up,omitempty"` // with Consistent "no": why there is no way back to before the resync
	Failed     bool             `json:"failed,omitempty"`  // its disk
	Split      string           `json:"split,omitempty"`   // why it may not follow the source, although that is not about to dial it
	Foreign    bool             `json:"foreign,omitempty"` // what is under its copy is not what it left (rule 9)
	Follows    string           `json:"follows,omitempty"` // the source that has a live connection to it, and which process of it: NODE/INCARNATION
	Stuck      string           `json:"stuck,omitempty"`   // it was the source and does not open by itself, nor hand over: the rule (CannotOpen)
}

// Event is something that happened. Each carries no time of its own: Step gets it.
type Event interface{ event() }

// Events from the shell's start and clock, peers and administrators.
type (
	// Started is the first event; the Machine was made from what the log held. Mine is what the data path found
	// (rule 9: a server that meets more of its own generation than it can have used refuses, `reverted`).
	Started struct{ Mine Own }
	// Tick arrives at least every 250 ms.
	Tick struct{}
	// PeerSeen: the peer answered a state request, or pushed its state.
	PeerSeen struct {
		Node string
		Info PeerInfo
		Mine Own
	}
	// PeerLost: the peer did not answer a state request.
	PeerLost struct {
		Node string
		Why  string
	}
	// Command of an administrator. Exactly one Reply effect with its ID follows, now or later.
	Command struct {
		ID      uint64
		Change  Change // what to change in the settings; or
		Set     *Set
		Switch  *Switch
		Resolve *Resolve
		Mine    Own // as it is now; needed for a Switch with Force and for Resolve
	}
)

// Change is what an administrator wants of one mirror (mirror add ... remove).
type Change struct {
	Action string // add | set | pause | continue | break | resync | remove
	Target string
	Path   string // add
	Mode   *lineage.Mode
	Queue  *int64
	Rate   *int64
	Resync *int64
}

// Set is what an administrator wants of the volume as a whole (volume set).
type Set struct {
	MinCopies  *int
	HoldCopies *bool
	Accept     bool // this source: copies that its take-over held are brought up to date
}

// Switch is a wish for another source.
type Switch struct {
	To    string
	Plan  string        // a random id
	Limit time.Duration // 0: Config.HoldMax
	// Force makes this server, To, the source without the old one: a source that waits at its start for peers that do not
	// answer (rule 24), or a forced take-over (rule 22).
	Force     bool
	NoCatchUp bool // with Force: although another survivor may hold answered writes that this server lacks
}

// Events of the source's links to its targets. Session numbers grow; an event of an older session is ignored.
type (
	// LinkUp: the target accepted the session Dial asked for; the comparison begins.
	LinkUp struct {
		Target  string
		Session uint64
	}
	// LinkRefused: the target said no, with the rule, and its terms.
	LinkRefused struct {
		Target, Rule, Message string
		Session               uint64
		Promised              lineage.Term
	}
	// LinkDown: the session ended, or Dial failed.
	LinkDown struct {
		Target, Why string
		Session     uint64
		Failed      bool   // the target's disk failed
		Rule        string // by which the target ended it; "" if it named none
	}
	// Compared: what the comparison found.
	Compared struct {
		Target  string
		Session uint64
		Kind    string // none | partial | compare | full
		Bytes   int64
	}
	// InStep: the target durably adopted history and position at the end of its resync. From before this event was made
	// answers wait for it (sync), and a flush that covers everything answered without it is on its way.
	InStep struct {
		Target  string
		Session uint64
	}
	// Caught: that flush is durable at the target: it may become a member (rule 17).
	Caught struct {
		Target  string
		Session uint64
	}
	// RecordAcked: the target has the record of this epoch durably.
	RecordAcked struct {
		Target  string
		Session uint64
		Epoch   lineage.Epoch
	}
	// AnswersWait: an answer cannot be given because these required members are not in step (their session is down, or
	// still in its resync). Repeated at least every 250 ms while it is so.
	AnswersWait struct{ Members []string }
	// Drained: nothing is in flight any more since the Hold of that plan, everything is answered; Number is the last one used.
	Drained struct {
		Plan   string // of the Hold
		Number uint64
	}
	// CheckedHere: the checkpoint asked for by the Checkpoint of that plan is durable here up to Last.
	CheckedHere struct {
		Plan string // of the Checkpoint
		Last lineage.Position
	}
	// CheckedThere: the target's answer to SendCheckpoint: it holds everything up to Number, durably, checkpoint included.
	CheckedThere struct {
		Target  string
		Session uint64
		Number  uint64
	}
	// TokenAnswer: what the heir said to the DeliverToken of that plan. An answer to an older token is void.
	TokenAnswer struct {
		Node  string
		Plan  string // Heir.Plan of the token
		Taken bool   // it serves, or has served, that term
		Rule  string
		Why   string
	}
	// DiskFailed: this copy's disk failed; durably noted already. From the failure on the data path of an open source
	// answers nothing and fails nothing, until ServeFrom or CloseDevice.
	DiskFailed struct{ Why string }
	// DiskStalled: this copy's disk has not finished something within its limit. Why "": it has, now.
	DiskStalled struct{ Why string }
)

// Events at a target.
type (
	// SessionAsked: a source wants to mirror to this server. Exactly one AcceptSession or RefuseSession follows.
	SessionAsked struct {
		ID       uint64
		From     string
		Term     lineage.Term
		Record   lineage.Record
		History  lineage.History
		Position lineage.Position
		Mine     Own
	}
	// SessionEnded: the incoming session is over, all its I/O finished.
	SessionEnded struct {
		ID  uint64 // of SessionAsked; 0: of the one accepted last
		Why string
	}
	// Adopted: the incoming session's resync ended; record and settings are saved already (atomically with the position).
	Adopted struct {
		ID       uint64 // of SessionAsked; 0: of the one accepted last
		Record   lineage.Record
		Settings lineage.Settings
	}
	// RecordCame and SettingsCame: frames of the stream. Followed by Save and then, for records, AckRecord.
	RecordCame struct {
		ID     uint64 // of SessionAsked; 0: of the one accepted last
		Record lineage.Record
	}
	SettingsCame struct{ Settings lineage.Settings }
	// RolledBack: the copy is what it was when its last resync began, and so is, durably, its record (rule 12).
	RolledBack struct{ Record lineage.Record }
	// TokenCame: a source hands its role to this server (rule 21). Exactly one Reply with the ID follows.
	TokenCame struct {
		ID   uint64
		From string
		Heir lineage.Heir
		Mine Own
	}
)

// Own is what the data path knows of this replica at that moment. In the middle of a resync History, Position and Floor
// are those of the undo anchor, if there is one (rule 12).
type Own struct {
	History    lineage.History
	Position   lineage.Position
	Floor      lineage.Position // durable up to here
	Consistent string           // "yes" | "rolling": in a resync that can be rolled back | "no"
	Reserved   uint64           // numbers up to this one may have been used by this server as source; 0: not known
	Unknown    bool             // some region is unknown
	Failed     bool
	Foreign    bool // what is under the copy is not what it left (rule 9)
}

// Effect is something the shell has to do.
type Effect interface{ effect() }

// Effects.
type (
	// Save the standing durably.
	Save struct{ Standing lineage.Standing }
	// BecomeSource: save the standing and a new generation in Term in one atomic write (for a restart of the same source the
	// generation is begun lazily by the data path: Lazy), then the data path is a source's.
	BecomeSource struct {
		Standing lineage.Standing
		Lazy     bool
	}
	// OpenDevice lets applications in. CloseDevice throws them out: requests in flight and held end with block.ErrShutdown.
	OpenDevice  struct{}
	CloseDevice struct{ Why string }
	// Dial the target and begin a session. Hangup ends it.
	Dial struct {
		Target  string
		Session uint64
		Full    bool // copy everything
	}
	Hangup struct {
		Target string
		Why    string
	}
	// Tune: limits or mode of a running session changed.
	Tune struct{ Member lineage.Member }
	// Require: answers wait for exactly these members (this server not among them), besides sessions in step that are no members yet.
	// Copies is how many copies have to hold a write before it is answered (rule 18): this server's own, unless its disk
	// failed, and those of sync sessions in step.
	Require struct {
		Members []string
		Copies  int
	}
	// ServeFrom: this source's disk failed and its copy is in no record any more. Reads go to that target, in its stream;
	// writes are done when the targets have them; what was held since the failure goes on.
	ServeFrom struct{ Target string }
	// AbandonDisk: this copy's disk hangs, and counts as failed from now on: DiskFailed follows.
	AbandonDisk struct{ Why string }
	// SendRecord, SendSettings, SendCheckpoint: frames for the target.
	SendRecord struct {
		Target string
		Record lineage.Record
	}
	SendSettings struct {
		Target   string
		Settings lineage.Settings
	}
	SendCheckpoint struct{ Target string }
	// Hold new writes; Drained follows, with the same Plan. Release lets them go on. Plan is "" when a source of an older
	// term holds its writes because it met a newer one (rule 25); no Drained is expected then.
	Hold    struct{ Plan string }
	Release struct{}
	// Checkpoint here; CheckedHere follows, with the same Plan.
	Checkpoint struct{ Plan string }
	// DeliverToken to its heir; TokenAnswer follows.
	DeliverToken struct{ Heir lineage.Heir }
	// AskPeers for their state now; PeerSeen or PeerLost follow for each.
	AskPeers struct{ Nodes []string }
	// AcceptSession and RefuseSession answer SessionAsked. Before Accept the shell has ended all I/O of the session before (rule 14).
	AcceptSession struct{ ID uint64 }
	RefuseSession struct {
		ID            uint64
		Rule, Message string
	}
	// DropSession ends the incoming session and waits until its I/O is finished.
	DropSession struct{ Why string }
	// AckRecord says to the source that the record is durable here.
	AckRecord struct{ Epoch lineage.Epoch }
	// Reply ends a Command, TokenCame, FenceAsked or GiveUpAsked. Rule "" and Err "" is success. Unfinished: not done within
	// its limit, but it goes on (exit code 4); without it a Rule is a refusal that changed nothing (exit code 3).
	Reply struct {
		ID             uint64
		Rule, Err, Fix string
		Unfinished     bool
		Better         string // with the rule behind-survivor: the server that ought to become source first
	}
	// PlanStep tells whoever watches that a step of the plan began or ended: State is running | done | failed.
	PlanStep struct{ Plan, Name, Text, State string }
	// Note is an event for the administrator.
	Note struct{ Level, Object, Rule, Message, Next string }
)

func (Started) event()      {}
func (Tick) event()         {}
func (PeerSeen) event()     {}
func (PeerLost) event()     {}
func (Command) event()      {}
func (LinkUp) event()       {}
func (LinkRefused) event()  {}
func (LinkDown) event()     {}
func (Compared) event()     {}
func (InStep) event()       {}
func (Caught) event()       {}
func (RecordAcked) event()  {}
func (AnswersWait) event()  {}
func (Drained) event()      {}
func (CheckedHere) event()  {}
func (CheckedThere) event() {}
func (TokenAnswer) event()  {}
func (DiskFailed) event()   {}
func (DiskStalled) event()  {}
func (SessionAsked) event() {}
func (SessionEnded) event() {}
func (Adopted) event()      {}
func (RecordCame) event()   {}
func (SettingsCame) event() {}
func (RolledBack) event()   {}
func (TokenCame) event()    {}

func (Save) effect()           {}
func (BecomeSource) effect()   {}
func (OpenDevice) effect()     {}
func (CloseDevice) effect()    {}
func (Dial) effect()           {}
func (Hangup) effect()         {}
func (Tune) effect()           {}
func (Require) effect()        {}
func (ServeFrom) effect()      {}
func (AbandonDisk) effect()    {}
func (SendRecord) effect()     {}
func (SendSettings) effect()   {}
func (SendCheckpoint) effect() {}
func (Hold) effect()           {}
func (Release) effect()        {}
func (Checkpoint) effect()     {}
func (DeliverToken) effect()   {}
func (AskPeers) effect()       {}
func (AcceptSession) effect()  {}
func (RefuseSession) effect()  {}
func (DropSession) effect()    {}
func (AckRecord) effect()      {}
func (Reply) effect()          {}
func (PlanStep) effect()       {}
func (Note) effect()           {}
