package e2e

import (
	"fmt"
	"strings"
)

// cell is one way, one step of it at one server's agent, and the server that is killed at that step.
type cell struct {
	way   *way
	at    string // role
	point string
	kill  string // role; with returns behind it: that one comes back at this step
}

func (x cell) String() string { return fmt.Sprintf("%s/%s@%s/%s", x.way.name, x.point, x.at, x.kill) }

// returns marks a role of cell.kill.
const returns = "-returns"

// way is how a volume comes to another source, or a server back.
type way struct {
	name    string
	steps   []steps
	kills   []string
	prepare func(m *matrix)
	act     func(m *matrix) result // in a goroutine: reports no failure
	// finish brings the cluster to rest and returns who has to be the source; "" if more than one may be.
	finish func(m *matrix, x cell, r result) string
}

// steps are points of one agent, in the order in which it comes to them.
type steps struct{ at, points string }

var (
	anybody   = []string{"giver", "heir", "third"}
	survivors = []string{"heir", "third"}
)

const (
	targetSteps = "target-session-accepted target-begin target-adopted"
	resyncSteps = "target-session-accepted target-begin target-anchored target-saved target-salvaged target-adopted"
	sourceSteps = "heir-before-save heir-saved heir-opened"
	giverSteps  = "switchover-held switchover-drained switchover-checked switchover-before-commit switchover-committed token-before-send token-sent token-answered"
)

var ways = []*way{
	{
		name: "planned", kills: anybody,
		steps: []steps{
			{"giver", giverSteps + " " + targetSteps}, {"heir", "target-checkpointed heir-token-received " + sourceSteps + " resync-end"}, {"third", targetSteps},
		},
		prepare: func(*matrix) {}, act: plannedAct, finish: plannedFinish,
	},
	{
		name: "planned-third-behind", kills: anybody,
		steps: []steps{{"third", resyncSteps}, {"heir", "resync-end"}},
		prepare: func(m *matrix) {
			m.c.run(m.node("giver"), "mirror", "pause", m.c.name, "--target", m.node("third"))
			m.c.writeAt(m.node("giver"), behindAt, mib, m.rng.Uint64())
		},
		act: func(m *matrix) result {
			r := plannedAct(m)
			m.c.execute(m.node("heir"), "mirror", "continue", m.c.name, "--target", m.node("third"))
			return r
		},
		finish: func(m *matrix, _ cell, _ result) string {
			m.up(m.c.nodes...)
			m.c.wait("the mirror to the third is continued", settleMax, func() error {
				return m.c.execute(m.node("heir"), "mirror", "continue", m.c.name, "--target", m.node("third")).err()
			})
			return m.node("heir")
		},
	},
	{
		name: "forced", kills: []string{"heir", "third", "giver" + returns},
		steps: []steps{
			{"heir", "force-asked force-promised fence-answered " + sourceSteps + " resync-end"}, {"third", "fence-asked fence-promised " + targetSteps},
		},
		prepare: func(m *matrix) { m.c.kill(m.node("giver")) },
		act:     func(m *matrix) result { return m.force(m.either("heir", "third"), m.node("heir")) },
		finish:  forcedFinish,
	},
	{
		name: "forced-in-mid-resync", kills: []string{"heir", "third" + returns, "giver" + returns},
		steps: []steps{{"heir", "rollback-salvaged rollback-begun rollback-restored rollback-adopted heir-saved"}},
		prepare: func(m *matrix) {
			giver, heir, third := m.node("giver"), m.node("heir"), m.node("third")
			m.pause()
			m.c.run(giver, "mirror", "pause", m.c.name, "--target", heir)
			m.alone, m.loser = m.c.writeAt(giver, aloneAt, aloneBytes, m.rng.Uint64()), giver
			m.c.kill(third)
			m.arm(heir, "kill", "target-saved")
			pid := m.pid(heir)
			m.c.run(giver, "mirror", "continue", m.c.name, "--target", heir)
			m.c.gone(heir, pid)
			m.c.kill(giver)
			m.c.start(heir)
		},
		act: func(m *matrix) result { return m.force(m.node("heir"), m.node("heir")) },
		finish: func(m *matrix, x cell, _ result) string {
			if x.kill == "heir" {
				m.c.start(m.node("heir"))
				m.again(m.node("heir"))
			}
			return m.endSplit("heir")
		},
	},
	{
		name: "forced-better-survivor", kills: survivors,
		steps: []steps{
			{"third", "fence-asked fence-promised force-asked force-promised fence-answered " + sourceSteps + " resync-end " + giverSteps},
			{"heir", "force-asked force-promised fence-answered " + resyncSteps + " target-checkpointed heir-token-received " + sourceSteps},
		},
		prepare: func(m *matrix) {
			m.c.kill(m.node("heir"))
			m.f.waitAnswers(50)
			m.c.kill(m.node("giver"))
			m.c.start(m.node("heir"))
		},
		act: func(m *matrix) result { return m.force(m.node("heir"), m.node("heir")) },
		finish: func(m *matrix, _ cell, r result) string {
			m.up(survivorsOf(m)...)
			if r.code == exitDone {
				return m.node("heir")
			}
			if m.rng.IntN(2) == 0 { // otherwise the old source finds out by itself
				m.again(m.node("heir"))
				return m.node("heir")
			}
			return ""
		},
	},
	{
		name: "return", kills: anybody,
		steps: []steps{{"giver", "boot-asks " + resyncSteps}, {"heir", "resync-end"}},
		prepare: func(m *matrix) {
			m.c.kill(m.node("giver"))
			if err := m.force(m.node("third"), m.node("heir")).err(); err != nil {
				m.c.t.Fatal(err)
			}
			m.c.waitMirroring(m.node("heir"), m.node("third"))
			m.f.waitAnswers(50)
		},
		act:    func(m *matrix) result { return m.comesBack("giver") },
		finish: func(m *matrix, _ cell, _ result) string { m.up(m.c.nodes...); return m.node("heir") },
	},
	{
		name: "given-up", kills: anybody,
		steps: []steps{{"heir", "giveup-asked giveup-saved"}, {"giver", "boot-asks giveup-answered " + sourceSteps + " resync-end"}, {"third", targetSteps}},
		prepare: func(m *matrix) {
			m.c.kill(m.node("giver"))
			m.arm(m.node("heir"), "kill", "force-promised")
			pid := m.pid(m.node("heir"))
			m.force(m.node("third"), m.node("heir"))
			m.c.gone(m.node("heir"), pid)
			m.c.start(m.node("heir"))
		},
		act:    func(m *matrix) result { return m.comesBack("giver") },
		finish: func(m *matrix, _ cell, _ result) string { m.up(m.c.nodes...); return m.node("giver") },
	},
	{
		name: "split-keep-new", kills: anybody,
		steps:   []steps{{"giver", "resolve-asked resolve-done " + resyncSteps}, {"heir", "resolve-asked resolve-done resync-end"}},
		prepare: func(m *matrix) { splitPrepare(m, "giver") },
		act:     func(m *matrix) result { return m.choose("heir") },
		finish:  func(m *matrix, _ cell, _ result) string { return m.endSplit("heir") },
	},
	{
		name: "split-keep-old", kills: anybody,
		steps: []steps{
			{"heir", "resolve-asked resolve-done fence-asked " + resyncSteps}, {"giver", "resolve-asked force-promised fence-answered " + sourceSteps + " resync-end"},
		},
		prepare: func(m *matrix) { splitPrepare(m, "heir") },
		act:     func(m *matrix) result { return m.choose("giver") },
		finish:  func(m *matrix, _ cell, _ result) string { return m.endSplit("giver") },
	},
}

// cells are all of them.
func cells() (all []cell) {
	for _, w := range ways {
		for _, s := range w.steps {
			for _, point := range strings.Fields(s.points) {
				for _, kill := range w.kills {
					all = append(all, cell{w, s.at, point, kill})
				}
			}
		}
	}
	return all
}

func plannedAct(m *matrix) result {
	return m.c.execute(m.either("giver", "heir"), "switchover", m.c.name, "--to", m.node("heir"), "--yes", "--timeout", "10s")
}

func plannedFinish(m *matrix, x cell, r result) string {
	m.up(m.c.nodes...)
	before := strings.HasPrefix(x.point, "switchover-") && x.point != "switchover-committed" || x.point == "target-checkpointed"
	switch {
	case !before || r.code == exitDone:
		return m.node("heir")
	case x.kill == "third" || x.point == "switchover-checked" && x.kill == "heir": // the giver may have decided already
		return ""
	case x.point == "switchover-before-commit" && x.kill == "heir": // the giver has decided, and saves it now
		return m.node("heir")
	}
	return m.node("giver")
}

func forcedFinish(m *matrix, x cell, r result) string {
	m.up(survivorsOf(m)...)
	durable := !strings.HasPrefix(x.point, "force-") && !strings.HasPrefix(x.point, "fence-") && x.point != "heir-before-save"
	switch {
	case durable || r.code == exitDone || x.kill == "third":
		return m.node("heir")
	case x.kill == "giver"+returns:
		return ""
	case m.rng.IntN(2) == 0: // the old source comes back first
		return m.node("giver")
	}
	m.again(m.node("heir"))
	return m.node("heir")
}

func survivorsOf(m *matrix) []string { return []string{m.node("heir"), m.node("third")} }

// splitPrepare: the giver goes on alone and answers; the heir takes over without it. The loser's writes are what an
// administrator will give up.
func splitPrepare(m *matrix, loser string) {
	giver, heir, third := m.node("giver"), m.node("heir"), m.node("third")
	m.pause()
	at := map[string]int64{"giver": otherAt, "heir": otherAt}
	at[loser] = aloneAt
	m.c.kill(heir)
	m.c.kill(third)
	written := map[string][]byte{"giver": m.c.writeAt(giver, at["giver"], aloneBytes, m.rng.Uint64())}
	m.c.kill(giver)
	m.c.start(heir)
	m.c.start(third)
	if err := m.force(third, heir).err(); err != nil {
		m.c.t.Fatal(err)
	}
	written["heir"] = m.c.writeAt(heir, at["heir"], aloneBytes, m.rng.Uint64())
	m.c.waitMirroring(heir, third)
	m.alone, m.loser = written[loser], m.node(loser)
	m.c.start(giver)
	m.c.waitState(heir, giver, "SplitBrain")
}

func (m *matrix) choose(keep string) result {
	return m.c.execute(m.either(anybody...), "split-brain", "resolve", m.c.name, "--keep", m.node(keep), "--yes", "--timeout", "20s")
}

// endSplit makes that role the source and ends whatever split brain there is.
func (m *matrix) endSplit(keep string) string {
	m.c.t.Helper()
	node := m.node(keep)
	m.up(m.c.nodes...)
	m.resolve(node)
	return node
}

func (m *matrix) pid(node string) int {
	m.c.t.Helper()
	pid, err := m.c.pid(node)
	if err != nil {
		m.c.t.Fatal(err)
	}
	return pid
}

// comesBack starts that server's agent.
func (m *matrix) comesBack(role string) result {
	m.c.launch(m.node(role))
	return result{}
}
