package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func salvageApply(a *app) *cobra.Command {
	r := api.SalvageChange{Action: "apply"}
	var ranges rangesFlag
	var yes bool
	c := &cobra.Command{
		Use: "apply VOLUME ID [--range OFFSET:LENGTH]...", Short: "Writes a salvage, or ranges of it, onto the volume", Args: cobra.ExactArgs(2),
		Long: `Writes what a salvage holds onto the volume, at its source, as an application there would; the salvage may be kept on
any server. What the volume has there is overwritten. An application that uses the volume does not expect that: stop it first.
--plan only says what differs from what the volume has now. The salvage stays as it is.`,
		Example: "  keelson salvage apply data 5f0c12ab34cd56ef5f0c12ab34cd56ef --plan\n" +
			"  keelson salvage apply data 5f0c12ab34cd56ef5f0c12ab34cd56ef --range 196608:131072 --range 1GiB:64KiB",
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume, r.ID, r.Ranges = args[0], args[1], ranges
			q := &salvageQuestion{deed: "applying a salvage", text: applyQuestion, undone: "not applied"}
			if yes || r.Plan {
				q = nil
			}
			return a.changeSalvage(c, r, q)
		},
	}
	c.Flags().Var(&ranges, "range", "only what it holds of this range of the volume, in bytes or as in 4MiB:64KiB; may be repeated")
	c.Flags().BoolVar(&r.Plan, "plan", false, "only say what would change")
	nodeFlag(c, &r.Node)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return c
}

// appliedLines say what applying would change.
func appliedLines(r api.SalvageChange, result *api.SalvageResult) []string {
	lines := []string{fmt.Sprintf("applying salvage %s would change %s of volume %s at source %s; %s are the same already",
		r.ID, human(result.Bytes), r.Volume, result.Source, human(result.Equal))}
	for i, run := range result.Runs {
		if i == bothShownMax {
			return append(lines, fmt.Sprintf("  and %d more ranges; --plan --json has them", len(result.Runs)-i))
		}
		lines = append(lines, fmt.Sprintf("  %d:%d  %s", run.Offset, run.Length, human(run.Length)))
	}
	return lines
}

func applyQuestion(r api.SalvageChange, s *api.Salvage) string {
	what := "all of it (" + human(s.Bytes) + ")"
	if len(r.Ranges) > 0 {
		what = fmt.Sprintf("what it has of %d ranges (%s)", len(r.Ranges), human(runBytes(r.Ranges)))
	}
	return "Write " + what + " over what volume " + r.Volume + " has there now?"
}
