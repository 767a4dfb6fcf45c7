package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func checkCommand(a *app) *cobra.Command {
	var q api.CheckQuery
	var source string
	var targets []string
	var size sizeFlag
	c := &cobra.Command{
		Use:   "check [VOLUME]",
		Short: "Says what works and what would not, before something is made or a server is rebooted",
		Long: `Asks every server, or those of a volume, and says what works and what would not: whether each reaches each other, clocks, round trips and
bandwidth, room and speed of the state directory, limits of the system, certificates, and what copies stand on. With --source and
--target it looks at copies that are not there yet. Nothing is written but a small file in each state directory; each measurement of
bandwidth takes at most half a second and 64 MiB.

With --reboot it answers one question: may this server be rebooted now?

Exit codes: 0 if there is no problem (there may be warnings), 1 if there is one, 3 if the server may not be rebooted.`,
		Example: `  keelson check
  keelson check data
  keelson check --source a:/dev/vg/data --target b:/dev/vg/data --size 10GiB
  keelson check data --target c:/dev/vg/data
  keelson check --reboot && systemctl reboot`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.Volume = args[0]
			}
			if source != "" {
				targets = append([]string{source}, targets...)
			}
			switch {
			case q.Volume != "" && source != "":
				return usagef("volume %s has a source: only targets can be added", q.Volume)
			case q.Volume == "" && source == "" && len(targets) > 0:
				return usagef("no --source: name it too, or the volume that is to get another target")
			}
			for _, s := range targets {
				place, err := api.ParsePlace(s)
				if err != nil {
					return err
				}
				q.Places = append(q.Places, place)
			}
			if p := size.pointer(); p != nil {
				q.SizeBytes = *p
			}
			if err := q.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			report, err := a.client().Check(ctx, q)
			if err != nil {
				return runError{err}
			}
			return a.checked(q, report)
		},
	}
	c.Flags().StringVar(&source, "source", "", "where the source's copy of a new volume would be, `NODE:PATH`")
	c.Flags().StringArrayVar(&targets, "target", nil, "where a target's copy would be, `NODE:PATH`; may be repeated")
	c.Flags().Var(&size, "size", "size of a new volume, such as 10GiB; that of the source's path unless said")
	c.Flags().BoolVar(&q.Quick, "quick", false, "measure nothing that makes load: no bandwidth, no flushes")
	c.Flags().BoolVar(&q.Reboot, "reboot", false, "only say whether a server may be rebooted now")
	c.Flags().StringVar(&q.Node, "node", "", "with --reboot: that server, `NODE`, instead of the one asked")
	return c
}

// checked prints a report. Its error has what stands against it.
func (a *app) checked(q api.CheckQuery, r *api.CheckReport) error {
	failed := checkError(q, r)
	if a.json {
		a.told = failed != nil
		if failed == nil {
			return a.document(r)
		}
		if err := a.document(struct {
			*api.CheckReport
			errorDocument
		}{r, errorDocument{failed, failed}}); err != nil {
			return err
		}
		return failed
	}
	a.print("%s\n", checkVerdict(q, r))
	a.checkItems(r, api.CheckProblem)
	a.checkItems(r, api.CheckWarning)
	a.checkItems(r, api.CheckOK)
	if failed != nil {
		return failed
	}
	return nil
}

// checkVerdict is the first line.
func checkVerdict(q api.CheckQuery, r *api.CheckReport) string {
	counts := fmt.Sprintf("%s, %s, %d ok", plural(r.Problems, "problem"), plural(r.Warnings, "warning"), len(r.Items)-r.Problems-r.Warnings)
	switch {
	case q.Reboot && r.Problems > 0:
		return fmt.Sprintf("%s may not be rebooted now", r.Node)
	case q.Reboot:
		return fmt.Sprintf("%s may be rebooted now", r.Node)
	case r.Problems > 0:
		return "something would not work: " + counts
	}
	return "this works: " + counts
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// checkItems prints those of one level, aligned.
func (a *app) checkItems(r *api.CheckReport, level string) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, i := range r.Items {
		if i.Level != level || i.Check == "reachable" && level == api.CheckOK { // a round trip says more
			continue
		}
		where := i.Node
		if i.Peer != "" {
			where += "->" + i.Peer
		}
		about := i.Check
		if i.Volume != "" {
			about = i.Volume + ": " + about
		}
		message := i.Message
		if i.Object != "" && i.Peer == "" {
			message = i.Object + " " + message
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", i.Level, where, about, message)
		if i.Next != "" && level != api.CheckOK {
			_, _ = fmt.Fprintf(w, "\t\t\tnext: %s\n", i.Next)
		}
	}
	_ = w.Flush() // see print
}

// checkError is what the command ends with if something stands against it.
func checkError(q api.CheckQuery, r *api.CheckReport) *api.Error {
	var against []string // of a reboot
	var first *api.CheckItem
	for i := range r.Items {
		if item := &r.Items[i]; item.Level == api.CheckProblem {
			if first == nil {
				first = item
			}
			against = append(against, "volume "+item.Volume+": "+item.Message)
		}
	}
	switch {
	case first == nil:
		return nil
	case q.Reboot:
		return api.Refusal(first.Rule, "node "+r.Node, "it may not be rebooted now: "+strings.Join(against, "; "), first.Next)
	}
	what := first.Message
	if first.Object != "" && first.Peer == "" {
		what = first.Object + " " + what
	}
	return api.Errorf(api.Failed, "node "+first.Node, "%s", what+more(r.Problems-1)).WithNext("%s", first.Next)
}

func more(problems int) string {
	if problems == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %s more)", plural(problems, "problem"))
}
