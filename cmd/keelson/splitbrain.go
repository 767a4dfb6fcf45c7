package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

// bothShownMax is how many ranges that several sides changed are listed for people; --json has them all.
const bothShownMax = 20

func splitBrainCommand(a *app) *cobra.Command {
	return group("split-brain", "Shows and resolves what went on without each other", splitBrainShow(a), splitBrainAttach(a), splitBrainDetach(a), splitBrainResolve(a))
}

func splitBrainShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show VOLUME", Short: "Shows both sides of a volume, side by side", Args: cobra.ExactArgs(1),
		Long: `Shows what each server made of the volume since they were last of one mind: how many writes, how many regions and
bytes, and which ranges more than one side changed. Numbers of writes are upper limits. Of what was about to be written to when a
server stopped it is not known whether it was: "perhaps not" says how many bytes that are. --json also lists the ranges
of each server. To look at what a side has: keelson split-brain attach.`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			s, err := a.client().SplitBrain(ctx, api.VolumeName{Name: args[0]})
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(s)
			}
			o := overview{now: a.now()}
			o.splitBrain(s)
			a.print("%s", o.String())
			if s.Split {
				a.note("see keelson split-brain attach %s --node NODE, keelson split-brain resolve %s --keep NODE --plan", s.Volume, s.Volume)
			}
			return nil
		},
	}
}

// splitBrain writes the sides of a volume for people.
func (o *overview) splitBrain(s *api.SplitBrain) {
	o.printf("volume %s  %s\n", s.Volume, splitInShort(s))
	if len(s.Sides) == 0 {
		return
	}
	if s.Common == "" {
		o.printf("  in common   nothing\n")
	} else {
		o.printf("  in common   up to number %d of generation %s\n", s.At, s.Common[:min(8, len(s.Common))])
	}
	o.sides(s.Sides)
	o.both(s.Both)
}

func splitInShort(s *api.SplitBrain) string {
	if !s.Split {
		return "no split brain: nothing is in the way of a resync"
	}
	var sources []string
	for _, side := range s.Sides {
		if side.Role == "source" {
			sources = append(sources, side.Node)
		}
	}
	return "split brain" + after("  sources ", strings.Join(sources, " "))
}

// sides writes a table with a column for each server, then what there is to say about each.
func (o *overview) sides(sides []api.Side) {
	w := tabwriter.NewWriter(o, 0, 0, 2, ' ', 0)
	row := func(name string, cell func(s *api.Side) string) {
		_, _ = fmt.Fprint(w, "  "+name) // a Builder does not fail
		for i := range sides {
			text := cell(&sides[i])
			if sides[i].Role == "" && name != "SERVER" { // nobody could say
				text = "unknown"
			}
			_, _ = fmt.Fprint(w, "\t"+text)
		}
		_, _ = fmt.Fprintln(w)
	}
	row("SERVER", func(s *api.Side) string { return s.Node })
	row("role", sideRole)
	row("term", func(s *api.Side) string { return fmt.Sprint(s.Term) })
	row("position", func(s *api.Side) string { return fmt.Sprint(s.Position) })
	row("in sync", func(s *api.Side) string { return orNone(strings.Join(s.Members, " ")) })
	row("since", func(s *api.Side) string { return fmt.Sprint(s.Since) })
	row("writes since", func(s *api.Side) string { return atMost(s.Writes) })
	row("regions since", func(s *api.Side) string { return counted(s, fmt.Sprint(s.Regions)) })
	row("bytes since", func(s *api.Side) string { return counted(s, human(s.Bytes)) })
	row("perhaps not", func(s *api.Side) string { return counted(s, human(s.UnknownBytes)) })
	_ = w.Flush()
	for _, s := range sides {
		for _, e := range s.Parting {
			o.printf("  %s: %s %s\n", s.Node, clock(e.Time), e.Message)
		}
		if s.Why != "" {
			o.printf("  %s: %s\n", s.Node, s.Why)
		}
		if !s.AsOf.IsZero() && o.now.Sub(s.AsOf) > 3*time.Second {
			o.printf("  %s: as it was %s\n", s.Node, o.ago(s.AsOf))
		}
	}
}

func sideRole(s *api.Side) string {
	switch {
	case s.Serving:
		return s.Role + ", serving"
	case s.Role == "source":
		return s.Role + ", closed"
	}
	return s.Role
}

func atMost(writes uint64) string {
	if writes == 0 {
		return "none"
	}
	return fmt.Sprintf("at most %d", writes)
}

// counted is the text, unless the server could not say what it has changed.
func counted(s *api.Side, text string) string {
	if s.Why != "" && s.Regions == 0 {
		return "unknown"
	}
	return text
}

// both lists the ranges that several sides changed, as salvage apply takes them.
func (o *overview) both(runs []api.Run) {
	if len(runs) == 0 {
		o.printf("  changed by more than one source: nothing known\n")
		return
	}
	more := ""
	if len(runs) >= api.RunsMax {
		more = "at least "
	}
	o.printf("  changed by more than one source: %s%s in %d ranges (OFFSET:LENGTH)\n", more, human(runBytes(runs)), len(runs))
	for i, r := range runs {
		if i == bothShownMax {
			o.printf("    and %d more; --json has them\n", len(runs)-i)
			break
		}
		o.printf("    %d:%d  %s\n", r.Offset, r.Length, human(r.Length))
	}
}

func runBytes(runs []api.Run) (bytes int64) {
	for _, r := range runs {
		bytes += r.Length
	}
	return bytes
}
