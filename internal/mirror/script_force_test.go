package mirror

import (
	"strings"

	"keelson/internal/lineage"
)

// forceEvent: events of forced take-overs and of promises that are overruled.
//
//	fence-asked FROM term=.. [mine=..]
//	fence-answer NODE [ok record=.. at=N | silent | RULE why]    of this server itself with mine=..
//	give-up-asked FROM term=.. new=..
//	give-up-answer NODE [ok | silent | RULE why]                 to what was asked last
func (s *script) forceEvent(verb string, w *words) Event {
	switch verb {
	case "fence-asked":
		return FenceAsked{ID: s.nextID(), From: w.next(), Term: w.term("term", ""), Mine: s.own}
	case "fence-answer":
		e := FenceAnswer{Node: w.next(), Plan: w.opt("plan", "p1")}
		if e.Node == s.m.cfg.Self {
			e.OK, e.Mine, e.Survivor = true, s.own, s.own.Survivor(e.Node, s.saved.Record)
			return e
		}
		record, at := w.record("record", ""), w.number(w.opt("at", "0"))
		p := lineage.Position{Gen: s.gen, Number: at}
		e.OK, e.Rule, e.Why = said(w)
		if e.OK {
			e.Survivor = lineage.Survivor{Node: e.Node, Record: record, Position: p, Floor: p, Consistent: !w.flag("inconsistent"), Foreign: w.flag("foreign")}
		}
		return e
	case "give-up-asked":
		return GiveUpAsked{ID: s.nextID(), From: w.next(), Term: w.term("term", ""), New: w.term("new", "")}
	case "give-up-answer":
		e := GiveUpAnswer{Node: w.next(), Term: s.asked.Term, New: s.asked.New}
		e.OK, e.Rule, e.Why = said(w)
		return e
	}
	return nil
}

// said is an answer's end: ok, silent, or a rule and why.
func said(w *words) (ok bool, rule, why string) {
	switch rule = w.next(); rule {
	case "ok":
		return true, "", ""
	case "silent":
		return false, "", "no answer"
	}
	return false, rule, strings.TrimSpace(w.rest())
}
