package main

import (
	"context"

	"keelson/internal/api"
)

func someCheck(_ context.Context, q api.CheckQuery) (*api.CheckReport, error) {
	trip := 0.0002
	switch {
	case q.Reboot && q.Node == "b":
		return api.NewCheckReport("b", at(0), []api.CheckItem{{Check: "reboot", Level: api.CheckProblem, Node: "b", Volume: "data", Rule: "in-use-here",
			Message: "b is its source, and it is in use here", Next: "switch over first: keelson switchover data --to a"}}), nil
	case q.Reboot:
		return api.NewCheckReport("a", at(0), []api.CheckItem{{Check: "reboot", Level: api.CheckOK, Node: "a", Volume: "data", Message: "b holds everything answered too"}}), nil
	case len(q.Places) > 0:
		return api.NewCheckReport("a", at(0), []api.CheckItem{{Check: "backing-size", Level: api.CheckProblem, Node: "b", Object: q.Places[1].Path,
			Message: "has 512 bytes, the volume needs 1024", Next: "use a larger one"}}), nil
	case q.Volume != "":
		return api.NewCheckReport("a", at(0), []api.CheckItem{{Check: "backing", Level: api.CheckOK, Node: "a", Volume: q.Volume, Object: "/dev/x", Message: "holds the copy"}}), nil
	}
	return api.NewCheckReport("a", at(0), []api.CheckItem{
		{Check: "reachable", Level: api.CheckOK, Node: "a", Peer: "b", Message: "a reaches b"},
		{Check: "clock", Level: api.CheckWarning, Node: "a", Peer: "b", Object: "10.0.0.2:7401", Message: "the clock of b is 3s ahead of that of a", Next: "set the clocks"},
		{Check: "round-trip", Level: api.CheckOK, Node: "a", Peer: "b", Value: &trip, Unit: "seconds", Message: "a message and its answer take 200µs"},
	}), nil
}
