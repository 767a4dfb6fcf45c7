// Package systemd tells the service manager that runs an agent how the agent is: ready, alive, about to end. Outside of
// systemd (no NOTIFY_SOCKET) it does nothing. The protocol is that of sd_notify(3) and sd_watchdog_enabled(3).
package systemd

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// beatsPerLimit is how often the watchdog is told within its limit: one beat may be late.
const beatsPerLimit = 3

// Tell says that the agent is ready, then, as often as the watchdog demands it, that it is alive for as long as alive()
// returns; it returns when ctx ends, having said that the agent stops. alive must touch what an agent needs to answer
// (its locks), and no disk: an agent is not killed because a disk is slow. what is shown by systemctl status.
func Tell(ctx context.Context, alive func() (what string), log *slog.Logger) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog's limit cannot be read", "err", err)
	}
	if told, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+alive()); !told {
		if err != nil {
			log.Warn("systemd was not told that the agent is ready", "err", err)
		}
		return
	}
	every := time.Minute // of the status text
	if limit > 0 {
		every = limit / beatsPerLimit
	}
	beat := time.NewTicker(every)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) // it sees the end in any case
			return
		case <-beat.C:
			if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog+"\nSTATUS="+alive()); err != nil {
				log.Warn("systemd was not told that the agent is alive", "err", err)
			}
		}
	}
}
