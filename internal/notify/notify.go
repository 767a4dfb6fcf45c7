// Package notify tells events to the world outside: a command that is run, a webhook that is called. It reads the
// journal as anybody who follows it does; what it cannot deliver in time it drops, and says so, since news of a volume must
// never wait for a pager, nor fill memory.
package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"keelson/internal/api"
)

// Limits of one delivery.
const (
	commandTimeMax = 30 * time.Second
	webhookTimeMax = 10 * time.Second // one try
	triesMax       = 4                // of a webhook
	retryFirst     = time.Second      // doubles with each try
	outputBytesMax = 2 << 10          // of a command's output, for the message about its failure
	answerBytesMax = 64 << 10         // of a webhook's answer, which is read and thrown away
)

// Options say what is told to whom.
type Options struct {
	Command string // path of an executable; "": none
	Webhook string // URL; "": none
	Level   string // the least grave level that is told
	// After returns the kept events that fit a query, and a channel that is closed when there are more (journal.Log).
	After func(api.EventsQuery) ([]api.Event, <-chan struct{})
	Log   *slog.Logger
}

// Run tells every event from now on, one after the other, until ctx ends. Each is given to the command and to the
// webhook; a failure is logged and does not keep later ones.
func Run(ctx context.Context, o Options) {
	q := api.EventsQuery{Level: o.Level}
	seen, _ := o.After(api.EventsQuery{Limit: 1})
	if len(seen) > 0 {
		q.After = seen[0].Seq
	}
	for ctx.Err() == nil {
		events, more := o.After(q)
		for _, e := range events {
			if ctx.Err() != nil {
				return
			}
			if missed := e.Seq - q.After - 1; o.Level == api.EventLevels[0] && q.After > 0 && missed > 0 {
				o.Log.Warn("events were not told to the outside: it is slower than they come", "events", missed)
			}
			q.After = e.Seq
			o.tell(ctx, e)
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}

func (o Options) tell(ctx context.Context, e api.Event) {
	text, err := json.Marshal(e)
	if err != nil {
		o.Log.Error("event cannot be written as JSON", "err", err)
		return
	}
	if o.Command != "" {
		if err := o.run(ctx, e, text); err != nil {
			o.Log.Error("notification command failed", "event", e.Seq, "err", err)
		}
	}
	if o.Webhook != "" {
		if err := o.post(ctx, text); err != nil {
			o.Log.Error("notification by webhook failed", "event", e.Seq, "err", err)
		}
	}
}

// run gives the event to the command: as JSON on standard input, and its fields in the environment.
func (o Options) run(ctx context.Context, e api.Event, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeMax)
	defer cancel()
	c := exec.CommandContext(ctx, o.Command)
	c.WaitDelay = time.Second // for a grandchild that holds its output
	c.Stdin = bytes.NewReader(append(text, '\n'))
	var out limited
	c.Stdout, c.Stderr = &out, &out
	c.Env = append(os.Environ(),
		"KEELSON_EVENT_SEQ="+strconv.FormatUint(e.Seq, 10), "KEELSON_EVENT_TIME="+e.Time.Format(time.RFC3339Nano),
		"KEELSON_EVENT_NODE="+e.Node, "KEELSON_EVENT_LEVEL="+e.Level, "KEELSON_EVENT_VOLUME="+e.Volume,
		"KEELSON_EVENT_OBJECT="+e.Object, "KEELSON_EVENT_RULE="+e.Rule, "KEELSON_EVENT_MESSAGE="+e.Message, "KEELSON_EVENT_NEXT="+e.Next)
	err := c.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s: ended after %s", o.Command, commandTimeMax)
	case err != nil:
		return fmt.Errorf("%s: %w: %s", o.Command, err, bytes.TrimSpace(out))
	}
	return nil
}

// limited keeps the first bytes written and takes the rest.
type limited []byte

func (l *limited) Write(p []byte) (int, error) {
	*l = append(*l, p[:min(len(p), outputBytesMax-len(*l))]...)
	return len(p), nil
}

// post sends the event to the webhook, again if it was not taken: an answer below 300 takes it, one from 400 to 499 never will.
func (o Options) post(ctx context.Context, text []byte) error {
	var err error
	for try := range triesMax {
		if try > 0 {
			select {
			case <-time.After(retryFirst << (try - 1)):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var again bool
		if again, err = postOnce(ctx, o.Webhook, text); err == nil || !again {
			return err
		}
	}
	return fmt.Errorf("given up after %d tries: %w", triesMax, err)
}

func postOnce(ctx context.Context, url string, text []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, webhookTimeMax)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return true, err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, answerBytesMax) // so that the connection can be used again
	if answer.StatusCode >= 300 {
		return answer.StatusCode < 400 || answer.StatusCode >= 500, fmt.Errorf("%s answered %s", url, answer.Status)
	}
	return false, nil
}
