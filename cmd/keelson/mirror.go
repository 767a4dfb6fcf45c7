package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func mirrorCommand(a *app) *cobra.Command {
	return group("mirror", "Adds, changes and removes the mirrors of a volume", mirrorAdd(a), mirrorSet(a),
		mirrorVerb(a, "pause", "Stops sending to a target until it is continued; it needs no full copy then"),
		mirrorVerb(a, "continue", "Ends a pause or a break; only what differs is sent"),
		mirrorVerb(a, "break", "Gives a target up until it is continued or resynced"),
		mirrorVerb(a, "resync", "Sends the whole volume to a target again"),
		mirrorVerb(a, "remove", "Removes a target from the volume; its copy stays on its disk"))
}

// mirrorFlags are those of all verbs that change limits.
type mirrorFlags struct {
	mode                string
	rate, resync, queue sizeFlag
}

func (f *mirrorFlags) define(c *cobra.Command) {
	c.Flags().StringVar(&f.mode, "mode", "", "sync: writes wait for this target; async: they do not")
	c.Flags().Var(&f.rate, "rate", "limit of everything that is sent, a second, such as 20MiB; 0: none")
	c.Flags().Var(&f.resync, "resync-rate", "limit of resyncs, a second, such as 20MiB; 0: none")
	c.Flags().Var(&f.queue, "queue", "limit of what waits to be sent, such as 64MiB; 0: the agent's default")
}

func (f *mirrorFlags) fill(r *api.MirrorChange) {
	if f.mode != "" {
		r.Mode = &f.mode
	}
	r.RateBytes, r.ResyncRate, r.QueueBytes = f.rate.pointer(), f.resync.pointer(), f.queue.pointer()
}

// mirrorVerb makes a verb that needs nothing but the target.
func mirrorVerb(a *app, action, short string) *cobra.Command {
	r := api.MirrorChange{Action: action}
	c := &cobra.Command{
		Use: action + " VOLUME --target NODE", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			return a.changeMirror(c, r)
		},
	}
	targetFlag(c, &r.Target, "NODE")
	return c
}

func targetFlag(c *cobra.Command, target *string, form string) {
	c.Flags().StringVar(target, "target", "", "the target, `"+form+"`")
	_ = c.MarkFlagRequired("target") // fails only for a flag that is not defined
}

// done says for people what each action has led to.
var done = map[string]string{
	"add": "added", "set": "set", "pause": "paused", "continue": "continued", "break": "broken",
	"resync": "is resynced as a whole", "remove": "removed; its copy stays on its disk",
}

// changeMirror makes the call and prints what became of the mirror.
func (a *app) changeMirror(c *cobra.Command, r api.MirrorChange) error {
	if err := r.Check(); err != nil {
		return err
	}
	ctx, cancel := a.limited(c)
	defer cancel()
	v, err := a.client().ChangeMirror(ctx, r)
	if err != nil {
		return runError{err}
	}
	if a.json {
		return a.document(v)
	}
	state := ""
	for _, m := range v.Mirrors {
		if m.Target == r.Target {
			state = strings.TrimSuffix("; it is "+m.State+": "+m.Reason, ": ")
		}
	}
	if r.Action == "remove" {
		state = ""
	}
	a.print("mirror to %s of %s %s%s\n", r.Target, r.Volume, done[r.Action], state)
	return nil
}
