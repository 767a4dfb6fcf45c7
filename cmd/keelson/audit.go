package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func auditCommand(a *app) *cobra.Command {
	var q api.AuditQuery
	var since time.Duration
	c := &cobra.Command{
		Use: "audit [VOLUME]", Short: "Shows who did what, on every server, oldest first",
		Long: "Shows who did what, when, with which result: every command that changes something, of the command line and the page, on\n" +
			"every server. With --json one object a line.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.Object = "volume " + args[0]
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
			defer cancel()
			if err := a.client().Audit(ctx, q, a.auditLine); err != nil {
				return runError{err}
			}
			return nil
		},
	}
	c.Flags().StringVar(&q.Node, "node", "", "only what was asked for at that server")
	c.Flags().StringVar(&q.Who, "who", "", "only what this user did")
	c.Flags().StringVar(&q.Object, "object", "", "only what is about this, such as \"user anna\" or \"node c\"")
	c.Flags().DurationVar(&since, "since", 0, "only the last so long, such as 24h")
	c.Flags().IntVarP(&q.Limit, "limit", "n", 0, "only the newest; 0: all that are kept")
	return c
}

// auditLine prints one line.
func (a *app) auditLine(l api.AuditLine) error {
	if a.json {
		return a.line(l)
	}
	who := l.Who
	if l.From != "" && l.From != l.Who {
		who += " (" + l.From + ")"
	}
	text := strings.TrimSpace(l.What + " " + l.Object)
	end := l.Result
	if l.Rule != "" {
		end += " by rule " + l.Rule
	}
	if l.Message != "" {
		end += ": " + l.Message
	}
	a.print("%s  %s  %s %s  %s  %s\n", l.Time.Local().Format("2006-01-02 15:04:05.000"), l.Node, l.Kind, who, text, strings.ReplaceAll(end, "\n", " "))
	if l.Detail != "" {
		a.print("%25s %s\n", "", l.Detail)
	}
	return nil
}
