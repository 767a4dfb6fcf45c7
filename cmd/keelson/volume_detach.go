package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeDetach(a *app) *cobra.Command {
	r := api.DeviceChange{Action: "detach"}
	var abort, all bool
	c := &cobra.Command{
		Use: "detach NAME | --abort --all", Short: "Ends the block device of a volume, and does not bring it back",
		Long: `Ends the block device of a volume, and does not bring it back. While somebody uses the device it is refused and says who.

With --abort the device on this machine is ended at once, whoever uses it and whether or not the agent answers: every
request to it ends with an error, and what was not written yet is lost. It is for devices that hang. With --all besides,
and no NAME, it ends all devices that cannot outlive the agent (kind loop): systemd does that for an agent that was killed.`,
		Example: "  keelson volume detach data\n  keelson volume detach data --abort",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case all && (!abort || len(args) > 0 || len(r.Nodes) > 0):
				return usagef("--all is for --abort, without NAME and --on").WithNext("detach volumes one by one: keelson volume detach NAME")
			case all:
				return a.abortAll(c)
			case len(args) == 0:
				return usagef("which volume?").WithNext("keelson volume detach NAME; keelson volume list shows them")
			}
			r.Volume = args[0]
			if abort {
				return a.abortOne(c, r)
			}
			return a.changeDevice(c, r)
		},
	}
	c.Flags().BoolVar(&abort, "abort", false, "end the device on this machine at once, without the agent")
	c.Flags().BoolVar(&all, "all", false, "with --abort: of all volumes of this agent, as far as they do not wait for its restart")
	onFlag(c, &r.Nodes)
	return c
}
