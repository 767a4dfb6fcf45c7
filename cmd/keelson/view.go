package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func salvageAttach(a *app) *cobra.Command {
	r := api.ViewChange{Action: "attach"}
	c := &cobra.Command{
		Use: "attach VOLUME ID", Short: "Shows a salvage as a read-only NBD export", Args: cobra.ExactArgs(2),
		Long: `Shows a salvage as a read-only NBD export on the server that keeps it, as large as the volume: what was given up is data,
everything else is a hole (nbdinfo --map shows which is which). With --over it lies over that server's copy instead of
over holes: so the volume would read after keelson salvage apply. That is not what the old source had, since
where only the new source wrote its writes are seen; a file system that both sides changed may be inconsistent in it. To
mount a side as it was, look at it before the split brain is resolved: keelson split-brain attach.

The export ends with keelson salvage detach, with the agent, and, with --over, when the copy begins to change.`,
		Example: "  keelson salvage attach data 5f0c12ab34cd56ef5f0c12ab34cd56ef\n  nbdinfo --map 'nbd+unix:///data@5f0c12ab34cd56ef5f0c12ab34cd56ef?socket=/run/keelson/nbd.sock'",
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume, r.Salvage = args[0], args[1]
			return a.changeView(c, r)
		},
	}
	c.Flags().BoolVar(&r.Over, "over", false, "over that server's copy of the volume, instead of over holes")
	nodeFlag(c, &r.Node)
	return c
}

func salvageDetach(a *app) *cobra.Command {
	r := api.ViewChange{Action: "detach"}
	c := &cobra.Command{
		Use: "detach VOLUME ID", Short: "Ends the NBD export of a salvage", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume, r.Salvage = args[0], args[1]
			return a.changeView(c, r)
		},
	}
	c.Flags().BoolVar(&r.Over, "over", false, "the one over that server's copy")
	nodeFlag(c, &r.Node)
	return c
}

func splitBrainAttach(a *app) *cobra.Command {
	r := api.ViewChange{Action: "attach"}
	c := &cobra.Command{
		Use: "attach VOLUME --node NODE", Short: "Shows one side as a read-only NBD export on its server", Args: cobra.ExactArgs(1),
		Long: `Shows the copy of one server as a read-only NBD export there, so that both sides can be looked at before one is chosen.
The copy is not changed by that. It has to stand still, as both sides of a split brain do unless they serve; a side that
serves is shown as it is at each moment. The export ends with keelson split-brain detach, with the agent, and by itself when
the copy begins to change.`,
		Example: "  keelson split-brain attach data --node a",
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			return a.changeView(c, r)
		},
	}
	sideFlag(c, &r.Node)
	return c
}

func splitBrainDetach(a *app) *cobra.Command {
	r := api.ViewChange{Action: "detach"}
	c := &cobra.Command{
		Use: "detach VOLUME --node NODE", Short: "Ends the NBD export of a side", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			return a.changeView(c, r)
		},
	}
	sideFlag(c, &r.Node)
	return c
}

func sideFlag(c *cobra.Command, node *string) {
	c.Flags().StringVar(node, "node", "", "the server whose side it is, `NODE`")
	_ = c.MarkFlagRequired("node") // fails only for a flag that is not defined
}

// changeView makes the call, for a salvage at the server that keeps it, and prints where the view is.
func (a *app) changeView(c *cobra.Command, r api.ViewChange) error {
	if err := r.Check(); err != nil {
		return err
	}
	ctx, cancel := a.limited(c)
	defer cancel()
	if r.Node == "" {
		s, err := a.locate(ctx, api.SalvageChange{Volume: r.Volume, ID: r.Salvage})
		if err != nil {
			return err
		}
		r.Node = s.Node
	}
	v, err := a.client().ChangeView(ctx, r)
	if err != nil {
		return runError{err}
	}
	if a.json {
		return a.document(v)
	}
	if r.Action == "detach" {
		a.print("%s detached on server %s\n", viewOf(v), v.Node)
		return nil
	}
	a.print("%s", strings.Join(append(v.Addresses, ""), "\n"))
	a.note("%s, read-only, on server %s", viewOf(v), v.Node)
	return nil
}

// viewOf says what is looked at.
func viewOf(v *api.View) string {
	text := "the copy of volume " + v.Volume
	if v.Salvage != "" {
		text = "salvage " + v.Salvage
		if v.Over {
			text += " over the copy"
		}
	}
	return text
}
