package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func splitBrainResolve(a *app) *cobra.Command {
	var r api.ResolveSplitBrain
	var yes, plan bool
	c := &cobra.Command{
		Use:   "resolve VOLUME --keep NODE",
		Short: "Keeps one side; what the others have besides goes to salvages",
		Long: `Keeps the side of one server; the others become its targets. What only they have is given up on the volume, and kept
on each of them as a salvage. --plan shows what that would be.`,
		Example: "  keelson split-brain show data\n  keelson split-brain resolve data --keep b --plan\n  keelson split-brain resolve data --keep b",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			if err := r.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			if plan {
				return a.planResolve(ctx, r)
			}
			if !yes {
				if err := a.confirmResolve(ctx, r); err != nil {
					return err
				}
			}
			if err := a.client().ResolveSplitBrain(ctx, r); err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(map[string]any{"volume": r.Volume, "keep": r.Keep, "resolved": true})
			}
			a.print("volume %s keeps the side of %s; what only others have goes to salvages\n", r.Volume, r.Keep)
			a.note("see keelson salvage list %s, once the mirrors are Mirroring again", r.Volume)
			return nil
		},
	}
	c.Flags().StringVar(&r.Keep, "keep", "", "the server whose side is kept, `NODE`")
	c.Flags().BoolVar(&plan, "plan", false, "only show what would be given up")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	_ = c.MarkFlagRequired("keep") // fails only for a flag that is not defined
	return c
}

// confirmResolve shows on a terminal what is given up, and asks.
func (a *app) confirmResolve(ctx context.Context, r api.ResolveSplitBrain) error {
	if err := a.askable("resolving a split brain", "look first: keelson split-brain show "+r.Volume); err != nil {
		return err
	}
	p, err := a.client().PlanResolve(ctx, r)
	if err != nil {
		return runError{err}
	}
	for _, line := range givenUp(p) {
		a.note("%s", line)
	}
	question := "Keep the side of " + r.Keep + " as volume " + r.Volume + ", and give up what only others have?"
	return a.ask(ctx, "volume "+r.Volume, question, "not resolved")
}

// planResolve shows what would be given up.
func (a *app) planResolve(ctx context.Context, r api.ResolveSplitBrain) error {
	p, err := a.client().PlanResolve(ctx, r)
	if err != nil {
		return runError{err}
	}
	if a.json {
		return a.document(p)
	}
	for _, line := range givenUp(p) {
		a.print("%s\n", line)
	}
	return nil
}

// givenUp says what the servers other than the one that is kept have that this one lacks.
func givenUp(p *api.ResolvePlan) []string {
	lines := []string{"keeping the side of " + p.Keep + " gives up, as salvages on these servers:"}
	for _, g := range p.GivenUp {
		text := "  " + g.Node + ": "
		switch {
		case g.Why != "":
			text += "unknown: it " + g.Why
		case g.Regions == 0:
			text += "nothing"
		default:
			text += fmt.Sprintf("at most %s in %d regions", human(g.Bytes), g.Regions)
			if g.UnknownBytes > 0 {
				text += fmt.Sprintf(", of which %s perhaps were not changed", human(g.UnknownBytes))
			}
			if g.Bytes > g.RoomBytes {
				text += fmt.Sprintf("; there is room for %s: without more the resync stops and says so", human(g.RoomBytes))
			}
		}
		lines = append(lines, text)
		for i, r := range g.Runs {
			if i == bothShownMax {
				lines = append(lines, fmt.Sprintf("    and %d more ranges; --plan --json has them", len(g.Runs)-i))
				break
			}
			lines = append(lines, fmt.Sprintf("    %d:%d  %s", r.Offset, r.Length, human(r.Length)))
		}
	}
	return lines
}
