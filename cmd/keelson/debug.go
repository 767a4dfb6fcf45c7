package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func debugCommand(a *app) *cobra.Command {
	return group("debug", "Looks into a running agent", debugFlightCommand(a))
}

func debugFlightCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "flight FILE", Short: "Writes what the agent did in the last seconds, for go tool trace",
		Long: `Writes what the agent did in the last seconds, for go tool trace. It is recorded only with flight-recorder = "on" in the
agent's configuration; a write that stalls leaves such a file by itself in the agent's state directory.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			n, err := a.flight(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.document(map[string]any{"file": args[0], "bytes": n})
			}
			a.print("%s: %d bytes; look at it with go tool trace %s\n", args[0], n, args[0])
			return nil
		},
	}
}

// flight asks the agent's local socket for its recording and writes it to a new file.
func (a *app) flight(ctx context.Context, file string) (n int64, err error) {
	object := "flight recording of the agent at " + a.socket
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.socket)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/debug/flight", nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, api.Errorf(api.Unreachable, object, "%v", err).WithNext("is it running, and is this its socket (--socket, KEELSON_SOCKET)?")
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(answer.Body, 1024)) // as much as there is
		return 0, api.Errorf(api.Failed, object, "%s", string(why))
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, api.Errorf(api.Failed, object, "%v", err).WithNext("name a file that does not exist yet")
	}
	n, err = io.Copy(f, answer.Body)
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, api.Errorf(api.Failed, object, "%v", errors.Join(err, os.Remove(file)))
	}
	return n, nil
}
