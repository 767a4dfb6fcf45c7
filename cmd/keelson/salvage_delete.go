package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func salvageDelete(a *app) *cobra.Command {
	r := api.SalvageChange{Action: "delete"}
	var yes bool
	c := &cobra.Command{
		Use: "delete VOLUME ID", Short: "Deletes a salvage; what it holds is gone then", Aliases: []string{"rm"}, Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume, r.ID = args[0], args[1]
			q := &salvageQuestion{deed: "deleting a salvage", text: deleteQuestion, undone: "not deleted"}
			if yes {
				q = nil
			}
			return a.changeSalvage(c, r, q)
		},
	}
	nodeFlag(c, &r.Node)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return c
}

func deleteQuestion(api.SalvageChange, *api.Salvage) string {
	return "Delete it, and what it holds for good?"
}
