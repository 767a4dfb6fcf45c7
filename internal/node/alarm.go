package node

import (
	"fmt"

	"keelson/internal/lineage"
)

// alarms are what an administrator hears once when it begins. The loop's.
type alarms struct {
	roomLow bool  // for salvages
	gaveUp  int64 // how often the way back was given up
}

// watchRoom tells when the room for salvages runs low, and when the undo log's is used up.
func (a *vol) watchRoom() {
	left, low := a.v.SalvageRoom()
	gaveUp := a.v.GaveUp()
	if low && !a.alarms.roomLow {
		a.note("warning", "volume "+a.name+" on "+a.n.cfg.Node, lineage.RuleSalvageLow,
			fmt.Sprintf("the room for salvages runs low: %d of %d bytes are left", left, a.v.UndoStatus().SalvageBytesMax), lineage.NextOf(lineage.RuleSalvageLow))
	}
	if gaveUp > a.alarms.gaveUp {
		a.note("warning", "volume "+a.name+" on "+a.n.cfg.Node, lineage.RuleNoWayBack,
			"the way back to before the resync was given up: "+a.v.UndoStatus().Reason+"; until the resync has ended this copy cannot become source", lineage.NextOf(lineage.RuleNoWayBack))
	}
	a.alarms = alarms{low, gaveUp}
}
