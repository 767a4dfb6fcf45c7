package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeCreate(a *app) *cobra.Command {
	var source string
	var targets []string
	var size sizeFlag
	r := api.CreateVolume{}
	c := &cobra.Command{
		Use:   "create NAME --source NODE:PATH [--target NODE:PATH]...",
		Short: "Makes a volume: one source, any number of targets",
		Long: `Makes a volume of a block device or file on one server and keeps copies of it on others. What the source holds is
kept and copied; what the targets hold is overwritten. Files that do not exist are made.`,
		Example: "  keelson volume create data --source a:/dev/vg0/data --target b:/dev/vg0/data --target c:/srv/data.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Name, r.SizeBytes = args[0], size.bytes
			var err error
			if r.Source, err = api.ParsePlace(source); err != nil {
				return err
			}
			for _, t := range targets {
				place, err := api.ParsePlace(t)
				if err != nil {
					return err
				}
				r.Targets = append(r.Targets, place)
			}
			if err := r.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			v, err := a.client().CreateVolume(ctx, r)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(v)
			}
			a.print("volume %s made: %s, source %s%s\n", v.Name, human(v.SizeBytes), v.Source, toTargets(r))
			a.note("see keelson status %s", v.Name)
			return nil
		},
	}
	c.Flags().StringVar(&source, "source", "", "`NODE:PATH` of the device or file that applications use first")
	c.Flags().StringArrayVar(&targets, "target", nil, "`NODE:PATH` of a copy; may be repeated")
	c.Flags().StringVar(&r.Mode, "mode", "sync", "of all mirrors: sync or async")
	c.Flags().Var(&size, "size", "of the volume, such as 10G; needed if the source's file does not exist")
	c.Flags().IntVar(&r.MinCopies, "min-copies", 0, "how many copies have to hold a write before it is answered; 1 unless said")
	_ = c.MarkFlagRequired("source") // fails only for a flag that is not defined
	return c
}

func toTargets(r api.CreateVolume) string {
	if len(r.Targets) == 0 {
		return ", no targets"
	}
	var nodes []string
	for _, t := range r.Targets {
		nodes = append(nodes, t.Node)
	}
	return ", targets " + strings.Join(nodes, " ") + " (" + r.Mode + ")"
}
