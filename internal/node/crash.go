package node

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"keelson/internal/mirror"
)

// crash is a test hook at a named step. KEELSON_CRASH_AT=POINT makes the agent kill itself at its first POINT. With
// KEELSON_CRASH_AT=@FILE the file of that name in the state directory, which may come and go while the agent runs, says
// "kill POINT" or "stop POINT", and is removed when that point is reached; a stopped agent goes on after a SIGCONT, so that
// a test can do something at that very step.
func (n *Node) crash(point string) {
	if n.crashAt == "" {
		return
	}
	do, at := "kill", n.crashAt
	if name, ok := strings.CutPrefix(n.crashAt, "@"); ok {
		file := filepath.Join(n.cfg.State, name)
		text, err := os.ReadFile(file)
		if err != nil {
			return
		}
		if do, at, _ = strings.Cut(strings.TrimSpace(string(text)), " "); at != point || os.Remove(file) != nil {
			return
		}
	}
	if at != point {
		return
	}
	n.log.Error("a test wants this agent to end or to stop here", "do", do, "point", point)
	if do == "stop" {
		runtime.LockOSThread() // the signal is this thread's: it does not get one step further
		_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP)
		runtime.UnlockOSThread()
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// crashBefore are the points that are events.
func (a *vol) crashBefore(e mirror.Event) {
	switch e := e.(type) {
	case mirror.Drained:
		a.n.crash("switchover-drained")
	case mirror.CheckedThere:
		a.n.crash("switchover-checked")
	case mirror.TokenAnswer:
		a.n.crash("token-answered")
	case mirror.TokenCame:
		a.n.crash("heir-token-received")
	case mirror.FenceAsked:
		a.n.crash("fence-asked")
	case mirror.FenceAnswer:
		if e.Node != a.n.cfg.Node {
			a.n.crash("fence-answered")
		}
	case mirror.GiveUpAsked:
		a.n.crash("giveup-asked")
	case mirror.GiveUpAnswer:
		a.n.crash("giveup-answered")
	case mirror.Command:
		switch {
		case e.Resolve != nil:
			a.n.crash("resolve-asked")
		case e.Switch != nil && e.Switch.Force:
			a.n.crash("force-asked")
		}
	}
}
