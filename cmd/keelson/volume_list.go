package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Lists the volumes that the agent knows", Aliases: []string{"ls"}, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			s, err := a.client().Status(ctx)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(append([]api.VolumeStatus{}, s.Volumes...))
			}
			if len(s.Volumes) == 0 {
				a.note("no volumes: keelson volume create makes one")
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "NAME\tSIZE\tROLE\tSOURCE\tMIRRORS") // errors come with Flush
			for _, v := range s.Volumes {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.Name, human(v.SizeBytes), v.Role, orNone(v.Source), mirrorsInShort(v.Mirrors))
			}
			return w.Flush()
		},
	}
}

// mirrorsInShort counts the mirrors by state.
func mirrorsInShort(mirrors []api.MirrorStatus) string {
	count, order := map[string]int{}, []string{}
	for _, m := range mirrors {
		if count[m.State]++; count[m.State] == 1 {
			order = append(order, m.State)
		}
	}
	text := ""
	for _, state := range order {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%d %s", count[state], state)
	}
	return orNone(text)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
