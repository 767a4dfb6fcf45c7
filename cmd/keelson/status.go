package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func statusCommand(a *app) *cobra.Command {
	var watch, once bool
	c := &cobra.Command{
		Use: "status [VOLUME]", Short: "Shows servers, volumes and mirrors at a glance",
		Long: `Shows what the agent knows: servers, volumes and mirrors. With --watch it goes on until interrupted: a live screen on
a terminal (q ends it, s switches over), otherwise a block after every change; with --json one object a line.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var volume string
			if len(args) > 0 {
				volume = args[0]
			}
			if watch && !once {
				return a.watch(c, volume)
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			s, err := a.client().Status(ctx)
			if err != nil {
				return runError{err}
			}
			if s, err = only(s, volume); err != nil {
				return err
			}
			if a.json {
				return a.document(s)
			}
			a.print("%s", a.overview(s))
			return nil
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on and show every change")
	c.Flags().BoolVar(&once, "once", false, "show it once (the default)")
	c.MarkFlagsMutuallyExclusive("watch", "once")
	return c
}

// only reduces the status to one volume, if one is named.
func only(s *api.Status, volume string) (*api.Status, error) {
	if volume == "" {
		return s, nil
	}
	v, err := find(s, volume)
	if err != nil {
		return nil, err
	}
	reduced := *s
	reduced.Volumes = []api.VolumeStatus{*v}
	return &reduced, nil
}

func (a *app) overview(s *api.Status) string {
	o := overview{now: a.now()}
	o.status(s)
	return o.String()
}

// watch shows the status again and again.
func (a *app) watch(c *cobra.Command, volume string) error {
	ctx, cancel := a.unlimited(c)
	defer cancel()
	show := func(s *api.Status) error {
		a.print("%s\n", a.overview(s))
		return nil
	}
	if a.json {
		show = func(s *api.Status) error { return a.line(s) }
	} else if screen, ok := openScreen(a); ok {
		defer func() {
			cancel()
			screen.dialog.workers.Wait()
			screen.close()
		}()
		go func() { // ends when the screen is closed or the process ends
			screen.untilQuit(ctx)
			cancel()
		}()
		show = screen.show
	}
	err := a.client().Watch(ctx, func(s *api.Status) error {
		s, err := only(s, volume)
		if err != nil {
			return err
		}
		return show(s)
	})
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil // interrupted: that is how watching ends
	}
	if err != nil {
		return runError{err}
	}
	return nil
}
