package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeAttach(a *app) *cobra.Command {
	r := api.DeviceChange{Action: "attach"}
	c := &cobra.Command{
		Use: "attach NAME", Short: "Gives the source's kernel a block device and prints its path",
		Long: `Gives the kernel of the source a block device and prints its path. It is remembered, at every server of the volume or
at those that --on names: wherever the volume is source the device is there, under the same name, until volume detach.`,
		Example: "  keelson volume attach data\n  mount $(keelson volume attach data) /srv/data",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			return a.changeDevice(c, r)
		},
	}
	c.Flags().StringVar(&r.Kind, "kind", "", "how: `auto`, loop or nbd (default: as the server's configuration says)")
	onFlag(c, &r.Nodes)
	return c
}

func onFlag(c *cobra.Command, nodes *[]string) {
	c.Flags().StringSliceVar(nodes, "on", nil, "only at these servers, `NODE,...`")
}

// changeDevice asks the agent and prints the device's path, if there is one.
func (a *app) changeDevice(c *cobra.Command, r api.DeviceChange) error {
	if err := r.Check(); err != nil {
		return err
	}
	ctx, cancel := a.limited(c)
	defer cancel()
	result, err := a.client().ChangeDevice(ctx, r)
	if err != nil {
		return runError{err}
	}
	if len(result.Missed) > 0 {
		a.note("servers that could not be told, and that remember what they were told before: %s", strings.Join(result.Missed, " "))
	}
	if r.Action == "attach" && result.Path == "" {
		return &api.Error{Code: api.Unfinished, Object: "volume " + r.Volume, Message: "attached, but its source is not usable now", Waits: "the source",
			Next: "look at keelson status; the device appears when the volume can be used"}
	}
	switch {
	case a.json:
		return a.document(result)
	case r.Action == "attach":
		a.print("%s\n", result.Path)
		a.note("%s (%s) on server %s", result.Address, result.Kind, result.Node)
		if m := result.Mount; m != nil {
			a.note("%s", mountLine(m))
		}
	default:
		a.print("volume %s detached\n", r.Volume)
	}
	return nil
}

// mountLine is what became of a mount, in a line.
func mountLine(m *api.MountStatus) string {
	return m.Point + " " + m.State + after(": ", m.Reason) + after("; ", m.Next)
}
