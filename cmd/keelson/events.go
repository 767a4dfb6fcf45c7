package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func eventsCommand(a *app) *cobra.Command {
	var q api.EventsQuery
	var since time.Duration
	c := &cobra.Command{
		Use: "events [VOLUME]", Short: "Shows what happened, oldest first",
		Long: "Shows what happened at the agent's server, oldest first; the newest events are kept across restarts. With --json one object a line.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.Volume = args[0]
			}
			if since < 0 {
				return usagef("--since %s is in the future", since)
			}
			if since > 0 {
				q.Since = a.now().Add(-since)
			}
			if err := q.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			if q.Follow {
				ctx, cancel = a.unlimited(c)
			}
			defer cancel()
			err := a.client().Events(ctx, q, a.event)
			if q.Follow && errors.Is(ctx.Err(), context.Canceled) {
				return nil // interrupted: that is how following ends
			}
			if err != nil {
				return runError{err}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with new events until interrupted")
	c.Flags().IntVarP(&q.Limit, "limit", "n", 0, "only the newest; 0: all that are kept")
	c.Flags().StringVar(&q.Level, "level", "", "only this level and graver ones: info, warning or error")
	c.Flags().StringVar(&q.Rule, "rule", "", "only those that name this rule")
	c.Flags().DurationVar(&since, "since", 0, "only those of the last `DURATION`, such as 1h")
	c.Flags().Uint64Var(&q.After, "after", 0, "only those with a greater sequence number")
	return c
}

// event prints one event.
func (a *app) event(e api.Event) error {
	if a.json {
		return a.line(e)
	}
	text := e.Message
	if e.Object != "" {
		text = e.Object + ": " + text
	}
	if e.Rule != "" {
		text += " (rule " + e.Rule + ")"
	}
	a.print("%s  %-7s  %s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Level, e.Node, text)
	if e.Next != "" {
		a.print("%37s next: %s\n", "", e.Next)
	}
	return nil
}
