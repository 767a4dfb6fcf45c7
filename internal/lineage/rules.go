package lineage

// Rule is one named decision: what it means and what an administrator does next. Every refusal, verdict and
// waiting state names one of Rules, so that the log, status, errors and the documentation use the same words.
type Rule struct {
	Name    string
	Meaning string
	Next    string // "" where nothing has to be done
}

// Names of rules. Each has a line in Rules.
const (
	// How two replicas stand to each other (Stand).
	RuleInOrder         = "in-order"
	RuleBehind          = "behind"
	RuleNoCommonHistory = "no-common-history"
	RuleSurplus         = "surplus"
	RuleSplitBrain      = "split-brain"
	RuleNewerThanSource = "newer-than-source"
	RuleReverted        = "reverted"

	// Which resync (resync.Decide).
	RuleFullAsked      = "full-asked"
	RuleForeignContent = "foreign-content"
	RuleOnlyZeroes     = "only-zeroes"
	RuleVersionsDiffer = "versions-differ"
	RuleVersionsEqual  = "versions-equal"

	// Who may follow whom.
	RuleOlderTerm      = "older-term"
	RuleWrongTermOwner = "wrong-term-owner"
	RuleRemoved        = "removed"
	RuleDiskFailed     = "disk-failed"
	RuleHandedOver     = "handed-over"

	// Switchovers.
	RuleAlreadySource     = "already-source"
	RuleNotAMember        = "not-a-member"
	RulePaused            = "paused"
	RuleHeld              = "held"
	RuleBroken            = "broken"
	RuleNotMirroring      = "not-mirroring"
	RuleNotInSync         = "not-in-sync"
	RuleUnreachable       = "unreachable"
	RulePlanInProgress    = "plan-in-progress"
	RuleNeedsForce        = "needs-force"
	RuleSwitchoverTimeout = "switchover-timeout"
	RuleHeirLost          = "heir-lost"
	RuleWrongHeir         = "wrong-heir"
	RuleNotTarget         = "not-target"
	RuleNotConsistent     = "not-consistent"
	RulePositionDiffers   = "position-differs"

	// Commands.
	RuleNotSource     = "not-source"
	RuleSourceClosed  = "source-closed"
	RuleAlreadyMember = "already-member"
	RuleIsSource      = "is-source"
	RuleBadSetting    = "bad-setting"

	// A source that starts.
	RuleBootWait     = "boot-wait"
	RuleNewerTerm    = "newer-term"
	RuleUnservedTerm = "unserved-term"
	RuleUnknownThere = "unknown-there"
	RuleForeignStore = "foreign-store"
	RuleNameTwice    = "name-twice"

	// Forced take-overs and split brains.
	RuleSourceAlive    = "source-alive"
	RuleBehindSurvivor = "behind-survivor"
	RuleForced         = "forced"
	RuleOverruled      = "overruled"
	RuleNoSplitBrain   = "no-split-brain"

	// Salvages and views.
	RuleNoSource     = "no-source"
	RuleOutsideRange = "outside-range"
	RuleApplying     = "applying"
	RuleCopyChanges  = "copy-changes"
	RuleTooManyViews = "too-many-views"
	RuleSalvageFull  = "salvage-full"
	RuleSalvageLow   = "salvage-room-low"
	RuleNoWayBack    = "no-way-back"

	// The in-sync set.
	RuleShrink    = "in-sync-shrinks"
	RuleAdmit     = "in-sync-grows"
	RuleMinCopies = "min-copies"
	RuleLastCopy  = "last-copy"

	// Disks.
	RuleServesFromTarget = "serves-from-target"
	RuleSourceDiskFailed = "source-disk-failed"
	RuleDiskStalled      = "disk-stalled"
	RuleNoRoom           = "no-room"

	// Reboots.
	RuleOnlyGoodCopy = "only-good-copy"
	RuleInUseHere    = "in-use-here"
)

// Rules is the table of all rules.
var Rules = []Rule{
	{RuleInOrder, "the target has the source's history up to its position", ""},
	{RuleBehind, "the target has the source's history and lacks its newest writes", ""},
	{RuleNoCommonHistory, "the two replicas share no generation: nothing is known of how their content relates", ""},
	{RuleSurplus, "the target holds writes that are not in the source's history; they were on their way when their source stopped, and the resync replaces them", ""},
	{RuleSplitBrain, "this replica went on without the new source and answered writes: following it would discard them", "compare both sides (keelson split-brain show VOLUME), then choose one (keelson split-brain resolve VOLUME --keep NODE)"},
	{RuleNewerThanSource, "the replica's history continues where the source's ends: the source is the older one", "find out which server ought to be the source (keelson status on each)"},
	{RuleReverted, "a peer holds more of this server's own writes than this server can have made: its disk or state was put back to an older one", "make another server the source (keelson switchover VOLUME --to NODE --force); this one then follows it"},

	{RuleFullAsked, "a full resync was asked for by name: every region is sent", ""},
	{RuleForeignContent, "the two replicas share no history and hold content: all regions are compared by digests and those that differ are sent", ""},
	{RuleOnlyZeroes, "the two replicas share no history, and what the target lacks is known on both sides: regions of equal version are skipped", ""},
	{RuleVersionsDiffer, "only the regions are sent whose versions differ, or are unknown and whose digests differ", ""},
	{RuleVersionsEqual, "every region has the same known version on both sides: nothing differs", ""},

	{RuleOlderTerm, "the server has promised to follow a newer term than that of the source which asks", "nothing: the older source is told and becomes a target; if it does not, look at its status"},
	{RuleWrongTermOwner, "the source asks in a term that names another server", "restart the agent of the source that asks; if it happens again, two servers use one name"},
	{RuleRemoved, "the server was removed from the volume", "add it again at the source (keelson mirror add VOLUME --target NODE:PATH) if it is to hold a copy"},
	{RuleDiskFailed, "the disk under this copy failed", "replace the disk, remove the mirror and add it again"},
	{RuleHandedOver, "the role of source was handed to another server, durably, and that server has not answered yet; the old source never takes it back", "nothing: it is repeated until the new source answers; see that its agent runs and is reachable"},

	{RuleAlreadySource, "the server is the source already", ""},
	{RuleNotAMember, "the server holds no copy of the volume", "add it as a target first (keelson mirror add VOLUME --target NODE:PATH)"},
	{RuleHeld, "a take-over by force left the copy as it was, since the volume has hold-old-copies", "look whether the new source is good (mount its file system), then accept it: keelson volume accept VOLUME; if it is no good, stop its agent and make a server with an old copy the source by force"},
	{RulePaused, "the mirror to that server is paused", "continue it (keelson mirror continue VOLUME --target NODE) and wait until it is Mirroring"},
	{RuleBroken, "the mirror to that server is broken", "continue it (keelson mirror continue VOLUME --target NODE) and wait until it is Mirroring"},
	{RuleNotMirroring, "the target is being brought up to date", "wait until the mirror is Mirroring (keelson status --watch)"},
	{RuleNotInSync, "the target is not in the in-sync set yet: it may lack writes that were answered", "wait until the mirror is Mirroring (keelson status --watch)"},
	{RuleUnreachable, "the source has no session with that server", "see that its agent runs and is reachable from the source, and wait until the mirror is Mirroring"},
	{RulePlanInProgress, "a switchover of this volume is under way", "wait for it to end (keelson status --watch), then ask again"},
	{RuleNeedsForce, "the source cannot be reached, so it cannot hand over", "bring the source back; or, if it is surely gone, keelson switchover VOLUME --to NODE --force"},
	{RuleSwitchoverTimeout, "the switchover did not come to its commit point within its limit and was given up; the source serves on", "look at the state of the mirrors (keelson status), then ask again"},
	{RuleHeirLost, "the server that was to become source was lost before the commit point; the source serves on", "wait until the mirror is Mirroring again, then ask again"},
	{RuleWrongHeir, "the hand-over names another server", "nothing: the source repeats it to the right one"},
	{RuleNotTarget, "the server is not a target and takes no hand-over", "look at its status"},
	{RuleNotConsistent, "the copy is in the middle of a resync and cannot be used", "wait for the end of the resync"},
	{RulePositionDiffers, "the copy does not hold exactly what the old source had when it handed over", "look at both servers' positions (keelson status) before anything is forced"},

	{RuleNotSource, "only the source changes its mirrors, and this server is not the source", "ask again at the source that status names"},
	{RuleSourceClosed, "this server was the source and has not opened the volume again yet", "see what it waits for (keelson status); if that never comes, open it first: keelson switchover VOLUME --to SOURCE --force"},
	{RuleAlreadyMember, "the server holds a copy of the volume already", "change its settings with keelson mirror set"},
	{RuleIsSource, "the server is the source: it has no mirror to itself", "switch over to another server first"},
	{RuleBadSetting, "the setting has no such value", "see keelson mirror set --help"},

	{RuleBootWait, "a server that was source opens nothing until every member has answered and none knows a newer source", "bring the silent servers back; or, if they surely did not take over: keelson switchover VOLUME --to SELF --force"},
	{RuleNewerTerm, "another server became source in a newer term while this one was away", "nothing: this server becomes a target when the new source reaches it"},
	{RuleUnservedTerm, "a server has promised to follow a newer term in which nobody serves", "bring the server back that the term names: it gives the term up when it is asked"},
	{RuleUnknownThere, "a member of the in-sync set says that it does not know the volume, so it cannot say whether somebody took over", "see that it runs with its own state directory; or, if it lost it for good: keelson switchover VOLUME --to SELF --force"},
	{RuleNameTwice, "another process with this server's name and certificate is the source of the volume: one of them is a clone, or was put back from a snapshot; or it has just died and that was not noticed yet", "wait until its connections have timed out (dead-after); if it lives, stop the one that is not the source, and give it a name, a certificate and a state directory of its own"},
	{RuleForeignStore, "what is under the copy of the source is not what it left: another disk, or content that was changed while the agent was stopped; the other copies would be overwritten with it", "make another server the source: keelson switchover VOLUME --to NODE --force; or, if what is there now is what you want: keelson switchover VOLUME --to SELF --force"},

	{RuleSourceAlive, "a server that was asked serves the volume, or is connected to one that does: it is not lost", "switch over without --force; or, if that server is surely gone, ask again when its connections have timed out"},
	{RuleBehindSurvivor, "another server that was reached may hold answered writes that this one lacks", "make that server the source first, then switch over to this one; or take over without them (--no-catch-up)"},
	{RuleForced, "an administrator made this server the source without the old one", "bring the old source back: it becomes a target by itself, or shows a split brain"},
	{RuleOverruled, "a term was promised for a take-over that did not happen; its server gave it up and the source goes on in a newer one", ""},
	{RuleNoSplitBrain, "nothing known here shows two sides of the volume", "look at the status of each server; ask again when they see each other"},

	{RuleNoSource, "the volume has no source that serves it and can be reached, so nothing can be written to it", "bring its source back, or switch over (keelson status VOLUME), then ask again"},
	{RuleOutsideRange, "a range was named that the volume does not have, or of which the salvage has nothing", "see what it has: keelson salvage apply VOLUME ID --plan --json"},
	{RuleApplying, "another salvage is being applied to the volume", "wait for that to end, then ask again"},
	{RuleCopyChanges, "the copy is being written to at this moment, so a view of it would not stand still", "use the volume at its source; or pause the mirror first (keelson mirror pause VOLUME --target NODE)"},
	{RuleTooManyViews, "the agent has as many views attached as its configuration allows (views-max)", "detach one (keelson status shows them), or raise views-max"},
	{RuleSalvageFull, "there is no room to keep what a resync would give up, so it stops before anything is lost", "export and delete salvages of the target that nobody needs (keelson salvage list VOLUME), or raise salvage-bytes there; it goes on by itself"},
	{RuleSalvageLow, "less than a fifth of the room for salvages is left on that server", "export and delete those that nobody needs (keelson salvage list VOLUME), or raise salvage-bytes there"},
	{RuleNoWayBack, "a resync changed more than the undo log has room for, or that log cannot be used: the resync goes on, but the copy cannot be made the source before it has ended", "let the resync end; for the next time raise undo-bytes on that server"},

	{RuleShrink, "a member was lost and left the in-sync set before anything was answered without it", "nothing: it comes back by itself when its server is reachable"},
	{RuleAdmit, "the target holds everything answered, durably, and joined the in-sync set", ""},
	{RuleMinCopies, "fewer copies than min-copies would hold what is written: writes are held, and then fail, and nothing is answered", "bring a sync target back (keelson status shows why it is not Mirroring), or lower it (keelson volume set VOLUME --min-copies N)"},
	{RuleLastCopy, "the disk of the source failed, and this target holds the last copy of everything answered", "switch over to it (keelson switchover VOLUME --to NODE), then change its mirrors"},

	{RuleServesFromTarget, "the disk of the source failed; it left the in-sync set, and reads and writes go to a target that holds everything", "switch over to that target (keelson switchover VOLUME --to NODE), then replace the disk"},
	{RuleSourceDiskFailed, "the disk of the source failed, and no target that holds everything was connected: the volume is closed here", "make another server the source: keelson switchover VOLUME --to NODE --plan --force shows what is at risk, without --plan it is done; then replace the disk"},
	{RuleDiskStalled, "the disk under this copy has not finished something for longer than disk-stall", "look at the kernel's log and at the disk; if it does not come back, stop the agent and replace the disk"},
	{RuleNoRoom, "a disk of this server, or what salvages may take there, has no room for what has to be kept: the volume is stopped on it, and nothing is lost", "make room on it, or delete salvages that nobody needs (keelson salvage list VOLUME): the volume goes on by itself within 15 seconds; what was asked for has to be asked for again"},

	{RuleOnlyGoodCopy, "no other server that can be reached holds everything answered: without this one the volume cannot be used, and is lost if it does not come back", "wait until a mirror is Mirroring (keelson status VOLUME)"},
	{RuleInUseHere, "the server is the source of a volume that is attached or has clients", "switch over first (keelson switchover VOLUME --to NODE)"},
}

// FindRule returns the rule of that name.
func FindRule(name string) (Rule, bool) {
	for _, r := range Rules {
		if r.Name == name {
			return r, true
		}
	}
	return Rule{}, false
}

// NextOf is what to do next after that rule said no; "" if the rule has none or is not known.
func NextOf(name string) string {
	r, _ := FindRule(name)
	return r.Next
}
