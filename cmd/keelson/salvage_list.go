package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func salvageList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list VOLUME", Short: "Lists what replicas of a volume gave up", Aliases: []string{"ls"}, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			all, err := a.client().Salvages(ctx, api.VolumeName{Name: args[0]})
			if err != nil {
				return runError{err}
			}
			defer a.salvageNotes(all)
			if a.json {
				return a.document(append([]api.Salvage{}, all.Salvages...))
			}
			if len(all.Salvages) == 0 {
				a.note("volume %s has no salvages", args[0])
				return nil
			}
			return a.salvageTable(all.Salvages)
		},
	}
}

// salvageTable writes the table, then what is wrong with those that are damaged.
func (a *app) salvageTable(salvages []api.Salvage) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tNODE\tSIZE\tREGIONS\tGIVEN UP\tEXPIRES\tREASON") // errors come with Flush
	for _, s := range salvages {
		if s.Damaged != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\tunknown\tunknown\tunknown\tnever\tdamaged\n", s.ID, s.Node)
			continue
		}
		expires := "never"
		if !s.Expires.IsZero() {
			expires = clock(s.Expires)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", s.ID, s.Node, human(s.Bytes), s.Regions, clock(s.Time), expires, orNone(s.Reason))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range salvages {
		switch {
		case s.Damaged != "":
			a.print("%s on %s: damaged, can only be deleted: %s\n", s.ID, s.Node, s.Damaged)
		case s.From != "":
			a.print("%s on %s: from %s\n", s.ID, s.Node, s.From)
		}
	}
	return nil
}

// salvageNotes says what a list lacks, and where the room runs low.
func (a *app) salvageNotes(all *api.Salvages) {
	if len(all.Silent) > 0 {
		a.note("not asked, since they can't be reached: %s; what they keep is not in the list", strings.Join(all.Silent, " "))
	}
	if len(all.RoomLow) > 0 {
		a.note("the room for salvages runs low on: %s; export and delete what nobody needs there", strings.Join(all.RoomLow, " "))
	}
}
