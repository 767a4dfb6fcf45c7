package node

import (
	"cmp"
	"fmt"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/volume"
)

func (a *vol) failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dead
}

// fail stops serving: what had to be durable is not, so nothing that follows may be said.
func (a *vol) fail(err error) {
	a.mu.Lock()
	if a.dead == nil {
		a.dead = err
	}
	var waiting []chan mirror.Reply
	for id, c := range a.replies {
		waiting = append(waiting, c)
		delete(a.replies, id)
	}
	a.mu.Unlock()
	a.n.log.Error("volume stopped", "volume", a.name, "err", err)
	if time.Since(a.opened) > 2*againMax { // else it was opened in vain
		a.tries = 0
	}
	rule, next := a.stoppedFor(err)
	if rule == "" || a.tries == 0 { // said once
		a.note("error", "volume "+a.name, rule, "stopped: "+err.Error(), next)
	}
	a.v.CloseDevice(err.Error())
	a.device.Withdraw()
	a.wantAddress(false)
	_ = a.n.nbd.RemoveExport(a.name)
	a.v.HangupAll(err)
	_ = a.v.DropSession(err.Error()) // if its disk hangs, nothing is said any more that depends on it
	for _, c := range waiting {
		c <- mirror.Reply{Err: err.Error(), Fix: next}
	}
	a.goOnLater(err)
}

// refuse answers what a stopped volume cannot do.
func (a *vol) refuse(e mirror.Event) {
	switch e := e.(type) {
	case mirror.Command:
		a.reply(mirror.Reply{ID: e.ID, Err: a.failed().Error()})
	case mirror.TokenCame:
		a.reply(mirror.Reply{ID: e.ID, Err: a.failed().Error()})
	case mirror.FenceAsked:
		a.reply(mirror.Reply{ID: e.ID, Rule: a.stopRule(), Err: a.failed().Error()})
	case mirror.GiveUpAsked:
		a.reply(mirror.Reply{ID: e.ID, Err: a.failed().Error()})
	case mirror.SessionAsked:
		a.answerSession(e.ID, func(in *incoming) {
			_ = in.conn.Refuse(a.stopRule(), a.failed().Error())
		})
	}
}

// stoppedBy gives a stopped volume another reason.
func (a *vol) stoppedBy(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = err
}

// staysStopped: there is no room that could help.
func (a *vol) staysStopped(err error) {
	a.stoppedBy(err)
	a.n.log.Error("volume stays stopped", "volume", a.name, "err", err)
	a.note("error", "volume "+a.name, "", "stays stopped: "+err.Error(), startAgain)
}

// startAgain is what helps a volume that was stopped for another reason than want of room.
const startAgain = "repair what failed and start the agent again"

// stoppedFor is what a stop means to whoever reads of it.
func (a *vol) stoppedFor(err error) (rule, next string) {
	if volume.NoRoom(err) && a.v.Failed() == nil {
		return lineage.RuleNoRoom, lineage.NextOf(lineage.RuleNoRoom)
	}
	return "", startAgain
}

// stopRule is the rule by which a stopped volume refuses others.
func (a *vol) stopRule() string {
	rule, _ := a.stoppedFor(a.failed())
	return cmp.Or(rule, lineage.RuleDiskFailed)
}

// goOnLater has a volume that was stopped opened again, if that can help.
func (a *vol) goOnLater(err error) {
	if rule, _ := a.stoppedFor(err); rule != "" {
		a.n.openLater(a.name, a.tries)
	}
}

// whyStopped is the reason that status shows, and the rule if there is one.
func whyStopped(err error) (reason, rule string) {
	if volume.NoRoom(err) {
		return fmt.Sprintf("%v (%s): %s", err, lineage.RuleNoRoom, lineage.NextOf(lineage.RuleNoRoom)), lineage.RuleNoRoom
	}
	return err.Error(), ""
}
