package mirror

import "keelson/internal/lineage"

// Resolve ends a split brain: the server Keep goes on, and every other one gives its surplus up into a salvage. It is
// given first to each server that shows the split and is not Keep, and then to Keep.
type Resolve struct{ Keep string }

// Events of a forced take-over (rule 22) and of a promise that is overruled (rule 24).
type (
	// FenceAnswer: what a server said to the Fence of that plan. Rule "" and not OK: it was not reached in time. This
	// server's own answer carries Mine as well.
	FenceAnswer struct {
		Plan, Node string
		OK         bool
		Rule, Why  string
		Survivor   lineage.Survivor // if OK
		Mine       Own              // if Node is this server
	}
	// FenceAsked: the server From is about to take over by force and asks for the promise of its term. Exactly one Reply
	// with the ID follows, after the promise is durable and the session of the old source has ended. If it is a success
	// the shell answers with Own.Survivor, of Own as it is then and of the record in the header.
	FenceAsked struct {
		ID   uint64
		From string
		Term lineage.Term
		Mine Own
	}
	// GiveUpAsked: the server From serves, or wants to, and asks this one to give up the promised term, which names it, in
	// favour of New. Exactly one Reply with the ID follows; success is durable.
	GiveUpAsked struct {
		ID        uint64
		From      string
		Term, New lineage.Term
	}
	// GiveUpAnswer: what the server said to GiveUp. Rule "" and not OK: it was not reached in time.
	GiveUpAnswer struct {
		Node      string
		Term, New lineage.Term
		OK        bool
		Rule, Why string
	}
)

// Effects of a forced take-over and of a promise that is overruled.
type (
	// Fence asks each node for the promise of that term; one FenceAnswer for each follows, also for those not reached.
	// This server is among them: it promised already, and the shell answers with what the data path knows at that moment
	// (FenceAnswer.Survivor and Mine).
	Fence struct {
		Plan  string
		Term  lineage.Term
		Nodes []string
	}
	// RollBack undoes an interrupted resync of this copy, down to its last consistent position. It is durable before the
	// next effect begins.
	RollBack struct{}
	// GiveUp asks the server that a promised, unserved term names to give it up in favour of New. GiveUpAnswer follows.
	GiveUp struct {
		Node      string
		Term, New lineage.Term
	}
)

// Survivor is what this server reports in a forced take-over: what it knows of its copy, and the record in its header.
func (o Own) Survivor(node string, r lineage.Record) lineage.Survivor {
	return lineage.Survivor{Node: node, Record: r, Floor: o.Floor, Position: o.Position, Consistent: o.Consistent != "no", Foreign: o.Foreign}
}

func (FenceAnswer) event()  {}
func (FenceAsked) event()   {}
func (GiveUpAsked) event()  {}
func (GiveUpAnswer) event() {}

func (Fence) effect()    {}
func (RollBack) effect() {}
func (GiveUp) effect()   {}
