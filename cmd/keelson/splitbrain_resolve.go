package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func splitBrainResolve(a *app) *cobra.Command {
	var r api.ResolveSplitBrain
	var yes bool
	c := &cobra.Command{
		Use:   "resolve VOLUME --keep NODE",
		Short: "Keeps one side; what the others have besides goes to salvages",
		Long: `Keeps the side of one server; the others become its targets. What only they have is given up on the volume, and kept
on each of them as a salvage.`,
		Example: "  keelson split-brain show data\n  keelson split-brain resolve data --keep b",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			if err := r.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
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
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	_ = c.MarkFlagRequired("keep") // fails only for a flag that is not defined
	return c
}

// confirmResolve shows on a terminal what is given up, and asks.
func (a *app) confirmResolve(ctx context.Context, r api.ResolveSplitBrain) error {
	if err := a.askable("resolving a split brain", "look first: keelson split-brain show "+r.Volume); err != nil {
		return err
	}
	s, err := a.client().SplitBrain(ctx, api.VolumeName{Name: r.Volume})
	if err != nil {
		return runError{err}
	}
	for _, line := range givenUp(s, r.Keep) {
		a.note("%s", line)
	}
	question := "Keep the side of " + r.Keep + " as volume " + r.Volume + ", and give up what only others have?"
	return a.ask(ctx, "volume "+r.Volume, question, "not resolved")
}

// givenUp says what the servers other than the one that is kept have besides the common history. A target may have it
// from the one that is kept: only what that one lacks is given up.
func givenUp(s *api.SplitBrain, keep string) []string {
	lines := []string{"volume " + s.Volume + "  " + splitInShort(s)}
	var losses []string
	for i := range s.Sides {
		side := &s.Sides[i]
		switch {
		case side.Node == keep:
		case side.Role == "":
			losses = append(losses, fmt.Sprintf("  %s: unknown%s", side.Node, after(": it ", side.Why)))
		case side.Writes > 0 || side.Regions > 0:
			losses = append(losses, fmt.Sprintf("  %s (%s): %s writes since number %d; regions: %s, bytes: %s", side.Node, sideRole(side),
				atMost(side.Writes), side.Since, counted(side, fmt.Sprint(side.Regions)), counted(side, human(side.Bytes))))
		}
	}
	if len(losses) == 0 {
		return append(lines, "given up: nothing")
	}
	return append(append(lines, "given up, and kept as salvages, is what "+keep+" lacks of this:"), losses...)
}
