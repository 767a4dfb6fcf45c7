package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func salvageCommand(a *app) *cobra.Command {
	return group("salvage", "Content that had to be given up, and was kept", salvageList(a), salvageExport(a), salvageAttach(a), salvageDetach(a),
		salvageApply(a), salvageDelete(a))
}

func nodeFlag(c *cobra.Command, node *string) {
	c.Flags().StringVar(node, "node", "", "the server that keeps it, `NODE`; looked for if not given")
}

// salvageQuestion is what is asked before a salvage is changed.
type salvageQuestion struct {
	deed   string // that needs a yes, such as "deleting a salvage"
	text   func(r api.SalvageChange, s *api.Salvage) string
	undone string // what was not done without one
}

// salvageDocument is what --json prints: what was asked for, with the server that keeps the salvage, and the result.
type salvageDocument struct {
	api.SalvageChange
	api.SalvageResult
}

// changeSalvage finds the salvage, asks if q is not nil, makes the call and prints what was done.
func (a *app) changeSalvage(c *cobra.Command, r api.SalvageChange, q *salvageQuestion) error {
	if err := r.Check(); err != nil {
		return err
	}
	ctx, cancel := a.limited(c)
	defer cancel()
	if q != nil {
		if err := a.askable(q.deed, ""); err != nil {
			return err
		}
	}
	if r.Node == "" || q != nil {
		s, err := a.locate(ctx, r)
		if err != nil {
			return err
		}
		r.Node = s.Node
		if q != nil {
			a.note("%s", salvageInShort(s))
			if r.Action == "apply" {
				if err := a.noteApplying(ctx, r); err != nil {
					return err
				}
			}
			if err := a.ask(ctx, "salvage "+r.ID, q.text(r, s), q.undone); err != nil {
				return err
			}
		}
	}
	result, err := a.client().ChangeSalvage(ctx, r)
	if err != nil {
		return runError{err}
	}
	if a.json {
		return a.document(salvageDocument{r, *result})
	}
	a.salvageDone(r, result)
	return nil
}

// salvageDone says for people what each action has led to.
func (a *app) salvageDone(r api.SalvageChange, result *api.SalvageResult) {
	switch r.Action {
	case "export":
		a.print("salvage %s of %s exported to %s on server %s: %d files, %s\n", r.ID, r.Volume, r.Dir, r.Node, result.Files, human(result.Bytes))
	case "apply":
		if r.Plan {
			for _, line := range appliedLines(r, result) {
				a.print("%s\n", line)
			}
			return
		}
		a.print("salvage %s applied: %s written to volume %s at source %s\n", r.ID, human(result.Bytes), r.Volume, result.Source)
	case "delete":
		a.print("salvage %s of %s deleted on server %s\n", r.ID, r.Volume, r.Node)
	}
}

// noteApplying shows what an apply would change before it is asked for.
func (a *app) noteApplying(ctx context.Context, r api.SalvageChange) error {
	r.Plan = true
	result, err := a.client().ChangeSalvage(ctx, r)
	if err != nil {
		return runError{err}
	}
	for _, line := range appliedLines(r, result) {
		a.note("%s", line)
	}
	return nil
}

// locate finds the salvage on the server that is named, or on the only one that has it.
func (a *app) locate(ctx context.Context, r api.SalvageChange) (*api.Salvage, error) {
	all, err := a.client().Salvages(ctx, api.VolumeName{Name: r.Volume})
	if err != nil {
		return nil, runError{err}
	}
	var found []*api.Salvage
	var nodes []string
	for i := range all.Salvages {
		if s := &all.Salvages[i]; s.ID == r.ID && (r.Node == "" || s.Node == r.Node) {
			found, nodes = append(found, s), append(nodes, s.Node)
		}
	}
	object := "salvage " + r.ID
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, api.Errorf(api.Usage, object, "servers %s have one of this id each", strings.Join(nodes, " ")).WithNext("say which with --node")
	case r.Node == "" && len(all.Silent) > 0, slices.Contains(all.Silent, r.Node):
		return nil, api.Errorf(api.Failed, object, "volume %s has none of this id on a server that could be asked; %s could not be", r.Volume, strings.Join(all.Silent, " ")).
			WithNext("start what is down, or see keelson salvage list %s", r.Volume)
	}
	return nil, api.Errorf(api.Failed, object, "volume %s has none of this id%s", r.Volume, after(" on server ", r.Node)).
		WithNext("see keelson salvage list %s", r.Volume)
}

// salvageInShort describes a salvage on one line.
func salvageInShort(s *api.Salvage) string {
	text := fmt.Sprintf("salvage %s of volume %s on server %s: ", s.ID, s.Volume, s.Node)
	if s.Damaged != "" {
		return text + "damaged: " + s.Damaged
	}
	return text + fmt.Sprintf("%s in %d regions, given up %s%s%s", human(s.Bytes), s.Regions, clock(s.Time), after(": ", s.Reason), after("; from ", s.From))
}

// clock writes a time for people.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
