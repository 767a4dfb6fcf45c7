package main

import (
	"context"
	"os"

	"keelson/internal/api"
)

const firstSalvage, secondSalvage = "5f0c12ab34cd56ef5f0c12ab34cd56ef", "00ff12ab34cd56ef5f0c12ab34cd56ef"

// bothSides is a split brain of volume data; volume logs has none.
func bothSides(_ context.Context, r api.VolumeName) (*api.SplitBrain, error) {
	s := &api.SplitBrain{Volume: r.Name, Common: "5f0c12ab34cd", At: 812, Sides: []api.Side{
		{Node: "a", Role: "source", Serving: true, Term: 1, Position: 843, Members: []string{"a", "b"}, Since: 812, Writes: 31, Regions: 4, Bytes: 256 << 10, UnknownBytes: 64 << 10, AsOf: at(30),
			Parting: []api.Event{{Time: at(0), Node: "a", Rule: "in-sync-shrinks", Message: "c left the in-sync set"}}},
		{Node: "b", Role: "source", Serving: true, Term: 2, Position: 1020, Members: []string{"b", "c"}, Since: 812, Writes: 208, Regions: 17, Bytes: 17 << 16, AsOf: at(10)},
		{Node: "c", Role: "target", Term: 2, Position: 1020, Members: []string{"b", "c"}, Since: 812, Writes: 208, Why: "cannot be asked: no session", AsOf: at(30)},
		{Node: "d", Why: "cannot be asked: nobody listens there", AsOf: at(30)},
	}}
	if r.Name == "logs" {
		s.Common, s.Sides = "", s.Sides[:1]
		s.Sides[0].Serving, s.Sides[0].Writes, s.Sides[0].Regions, s.Sides[0].Bytes, s.Sides[0].UnknownBytes, s.Sides[0].Members, s.Sides[0].Parting = false, 0, 0, 0, 0, nil, nil
		return s, nil
	}
	s.Split = true
	s.Both = []api.Run{{Offset: 196608, Length: 131072}, {Offset: 1 << 30, Length: 65536}}
	for k := int64(0); r.Name == "many" && len(s.Both) < api.RunsMax; k++ {
		s.Both = append(s.Both, api.Run{Offset: 2<<30 + k<<17, Length: 65536})
	}
	return s, nil
}

func resolved(_ context.Context, r api.ResolveSplitBrain) error {
	if r.Volume == "logs" {
		return api.Refusal("no-split-brain", "volume logs", "no server shows a split brain", "keelson status logs")
	}
	return nil
}

// keptSalvages has one salvage of each kind; a damaged one has the same id on two servers.
func keptSalvages(_ context.Context, r api.VolumeName) (*api.Salvages, error) {
	return &api.Salvages{Salvages: []api.Salvage{
		{ID: firstSalvage, Volume: r.Name, Node: "a", Reason: "resync from b in term 2.b", From: "generation 5f0c12ab of term 1.a, number 843", Time: at(5), Expires: at(86405), Regions: 4, Bytes: 256 << 10},
		{ID: secondSalvage, Volume: r.Name, Node: "b", Time: at(6), Regions: 1, Bytes: 65536},
		{ID: "damaged-0003", Volume: r.Name, Node: "a", Damaged: "its footer's checksum is wrong"},
		{ID: "damaged-0003", Volume: r.Name, Node: "b", Damaged: "its footer is missing"},
	}, Silent: []string{"c", "d"}, RoomLow: []string{"a"}}, nil
}

func changedSalvage(_ context.Context, r api.SalvageChange) (*api.SalvageResult, error) {
	switch r.Action {
	case "export":
		return &api.SalvageResult{Files: 3, Bytes: 256 << 10}, os.WriteFile(r.Dir+".asked", []byte(r.ID+" on "+r.Node+"\n"), 0o600)
	case "apply":
		if r.Node != "a" {
			return nil, api.Refusal("no-source", "volume "+r.Volume, r.Node+", which keeps the salvage, knows of no source", "bring its source back")
		}
		result := &api.SalvageResult{Bytes: 256 << 10, Source: "c"}
		if r.Plan {
			result.Bytes, result.Equal, result.Runs = 128<<10, 128<<10, []api.Run{{Offset: 196608, Length: 131072}}
			return result, nil
		}
		if len(r.Ranges) > 0 {
			result.Bytes = runBytes(r.Ranges)
		}
		return result, nil
	}
	return &api.SalvageResult{}, nil
}

func plannedResolve(_ context.Context, r api.ResolveSplitBrain) (*api.ResolvePlan, error) {
	p := &api.ResolvePlan{Volume: r.Volume, Keep: r.Keep, GivenUp: []api.GivenUp{
		{Node: "a", Role: "source", Regions: 4, Bytes: 256 << 10, UnknownBytes: 64 << 10, Runs: []api.Run{{Offset: 196608, Length: 131072}, {Offset: 1 << 30, Length: 131072}}, RoomBytes: 128 << 10},
		{Node: "c", Role: "target", Runs: []api.Run{}, RoomBytes: 1 << 30},
		{Node: "d", Runs: []api.Run{}, Why: "cannot be asked: nobody listens there"},
	}}
	if r.Volume == "logs" {
		return nil, api.Refusal("not-a-member", "volume logs", r.Keep+" has no copy of it", "add it")
	}
	return p, nil
}

func changedView(_ context.Context, r api.ViewChange) (*api.View, error) {
	if r.Over && r.Action == "attach" {
		return nil, api.Refusal("copy-changes", "view "+api.ViewName(r.Volume, r.Salvage, r.Over), "the copy is being written to", "pause the mirror")
	}
	kind := "copy"
	if r.Salvage != "" {
		kind = "salvage"
	}
	name := api.ViewName(r.Volume, r.Salvage, r.Over)
	return &api.View{Name: name, Volume: r.Volume, Node: r.Node, Kind: kind, Salvage: r.Salvage, Over: r.Over, Since: at(0), SizeBytes: 1 << 30,
		Addresses: []string{"nbd+unix:///" + name + "?socket=/x/nbd.sock"}}, nil
}
