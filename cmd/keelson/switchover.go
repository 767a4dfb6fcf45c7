package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/api"
	"keelson/internal/switchover"
)

func switchoverCommand(a *app) *cobra.Command {
	var r api.Switchover
	var yes bool
	c := &cobra.Command{
		Use:   "switchover VOLUME --to NODE",
		Short: "Makes another server the source of a volume",
		Long: `Makes another server the source of a volume. The source finishes what was begun, hands over, and becomes a target;
all mirrors turn around, and only what differs is copied. Any agent of the cluster can be asked.`,
		Example: "  keelson switchover data --to b --plan\n  keelson switchover data --to b --yes --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			if err := r.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			if !r.Plan && !yes {
				if err := a.confirm(ctx, r); err != nil {
					return err
				}
			}
			result, err := a.client().Switchover(ctx, r, a.step)
			if err != nil {
				return runError{err}
			}
			return a.switched(result)
		},
	}
	c.Flags().StringVar(&r.To, "to", "", "the server that is to be source, `NODE`")
	c.Flags().BoolVar(&r.Plan, "plan", false, "only show the steps and what is at risk")
	c.Flags().BoolVar(&r.Wait, "wait", false, "wait until every reachable mirror is Mirroring again")
	c.Flags().BoolVar(&r.Force, "force", false, "the source can't be reached: take over without it")
	c.Flags().BoolVar(&r.NoCatchUp, "no-catch-up", false, "with --force: don't take what other targets have and this one lacks")
	c.Flags().BoolVar(&r.NoFence, "no-fence", false, "with --force: don't run the hook fence: the old source is surely off")
	c.Flags().BoolVar(&r.Unmount, "unmount", false, "unmount what is mounted from the source's block device first")
	c.Flags().BoolVar(&r.Freeze, "freeze", false, "freeze what is mounted from it instead, and unmount it when the device is gone")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	_ = c.MarkFlagRequired("to") // fails only for a flag that is not defined
	return c
}

// confirm shows the plan on a terminal and asks. Without a terminal nobody can be asked.
func (a *app) confirm(ctx context.Context, r api.Switchover) error {
	if err := a.askable("a switchover", "--plan to look first"); err != nil {
		return err
	}
	r.Plan = true
	plan, err := a.client().Switchover(ctx, r, nil)
	if err != nil {
		return runError{err}
	}
	for _, line := range planLines(plan) {
		a.note("%s", line)
	}
	question := "Switch volume " + plan.Volume + " over from " + orNone(plan.From) + " to " + plan.To + "?"
	return a.ask(ctx, "volume "+r.Volume, question, "not switched over")
}

// step shows a step as it begins and ends.
func (a *app) step(s api.SwitchoverStep) {
	if s.State == "planned" {
		return
	}
	a.note("%-8s %s", s.State, strings.TrimSuffix(s.Name+": "+s.Text, ": "))
}

// switched prints the result.
func (a *app) switched(r *api.SwitchoverResult) error {
	if a.json {
		return a.document(r)
	}
	if r.Done {
		switch planned := slices.ContainsFunc(r.Steps, func(s api.SwitchoverStep) bool { return s.Name == switchover.StepHold }); {
		case planned && r.From != r.To:
			a.print("volume %s switched over from %s to %s; writes were held for %d ms\n", r.Volume, orNone(r.From), r.To, r.Millis)
		case r.From == r.To:
			a.print("volume %s opened at %s\n", r.Volume, r.To)
		default:
			a.print("volume %s taken over by %s from %s\n", r.Volume, r.To, orNone(r.From))
		}
		return nil
	}
	for _, line := range planLines(r) {
		a.print("%s\n", line)
	}
	return nil
}

// planLines are the steps and what is at risk.
func planLines(r *api.SwitchoverResult) []string {
	lines := []string{"switchover of " + r.Volume + " from " + orNone(r.From) + " to " + r.To + ":"}
	for _, s := range r.Steps {
		lines = append(lines, "  "+strings.TrimSuffix(s.Name+": "+s.Text, ": "))
	}
	if len(r.Risks) == 0 {
		return append(lines, "at risk: nothing")
	}
	lines = append(lines, "at risk:")
	for _, risk := range r.Risks {
		lines = append(lines, "  "+risk)
	}
	return lines
}
