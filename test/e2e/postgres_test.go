package e2e

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

var pgRounds = flag.Int("pg-rounds", 1, "rounds of TestPostgresSurvivesItsServers: in each the source is switched over, and the next one dies")

// pgClients record transactions at the same time, besides pgbench's.
const pgClients = 4

// ledger is an application with a memory of its own: it inserts rows with unique numbers, and a number is committed only
// once the answer to its COMMIT has been read.
type ledger struct {
	next      atomic.Int64
	mu        sync.Mutex
	committed map[int64]bool
	count     atomic.Int64 // of committed
	unknown   int          // tried, and not known how it ended
	clients   sync.WaitGroup
}

// pgPayload is the content of row n, as SQL: of different length from row to row.
const pgPayload = "repeat(md5(n::text), 1 + (n %% %d)::int)"

var payloadOf = fmt.Sprintf(pgPayload, 60)

// use lets clients insert until the server is gone.
func (l *ledger) use(p *postgres) {
	p.c.t.Helper()
	for range pgClients {
		cmd := p.command("psql", "-X", "-v", "ON_ERROR_STOP=1")
		in, errIn := cmd.StdinPipe()
		out, errOut := cmd.StdoutPipe()
		if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
			p.c.t.Fatal(err)
		}
		l.clients.Go(func() {
			l.insert(in, bufio.NewReader(out))
			_ = in.Close()
			_ = cmd.Wait() // that the server went away is what it is about
		})
	}
}

func (l *ledger) insert(in io.Writer, out *bufio.Reader) {
	for {
		n := l.next.Add(1)
		_, err := fmt.Fprintf(in, "BEGIN; INSERT INTO ledger SELECT n, %s FROM (VALUES (%d)) AS v(n); COMMIT;\n", payloadOf, n)
		for _, answer := range []string{"BEGIN", "INSERT 0 1", "COMMIT"} {
			var line string
			if err == nil {
				line, err = out.ReadString('\n')
			}
			if err == nil && strings.TrimSpace(line) != answer {
				err = fmt.Errorf("%q instead of %s", line, answer)
			}
		}
		l.mu.Lock()
		if err != nil {
			l.unknown++
			l.mu.Unlock()
			return
		}
		l.committed[n] = true
		l.mu.Unlock()
		l.count.Add(1)
	}
}

// wait waits until all clients, and pgbench, have seen that the server is gone.
func (l *ledger) wait(p *postgres, benched <-chan struct{}) {
	p.c.t.Helper()
	ended := make(chan struct{})
	go func() {
		l.clients.Wait()
		<-benched
		close(ended)
	}()
	p.c.wait("the clients of PostgreSQL see that its disk is gone", settleMax, func() error {
		select {
		case <-ended:
			return nil
		default:
			return errors.New("they wait")
		}
	})
}

// check compares what the server has with what was answered. No client may be running.
func (l *ledger) check(p *postgres) {
	t := p.c.t
	t.Helper()
	present := map[int64]bool{}
	for _, line := range strings.Fields(p.sql("SELECT n FROM ledger")) {
		n, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		present[n] = true
		if n > l.next.Load() {
			t.Errorf("row %d was never inserted", n)
		}
	}
	lost := 0
	for n := range l.committed {
		if !present[n] {
			lost++
			t.Errorf("transaction %d was answered as committed and is not there", n)
		}
	}
	if lost > 0 {
		t.Fatalf("%d of %d committed transactions are lost", lost, len(l.committed))
	}
	if extra := len(present) - len(l.committed); extra > l.unknown {
		t.Errorf("%d rows more than were answered, and only %d whose end is not known", extra, l.unknown)
	}
	if bad := p.sql("SELECT count(*) FROM ledger WHERE payload <> " + payloadOf); bad != "0" {
		t.Errorf("%s rows have another content than they were given", bad)
	}
	sums := p.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
	for _, sum := range strings.Split(sums, "|") {
		if sum != strings.Split(sums, "|")[0] {
			t.Errorf("pgbench's balances do not agree: %s", sums)
		}
	}
}

// bench runs pgbench until its server is gone.
func (p *postgres) bench() (ended <-chan struct{}) {
	cmd := p.command("pgbench", "-n", "-c", "4", "-T", "3600", "postgres")
	if err := cmd.Start(); err != nil {
		p.c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // that the server went away is what it is about
		close(done)
	}()
	return done
}

// A data base on /dev/keelson/data, used by pgbench and by clients that note what was committed, moves around three servers:
// in each round by a planned switchover, as the guide has it, and by the death of its server, after which another one takes
// over by force. Wherever it starts, every transaction that was answered is there, no page, index or row is damaged, and the
// file system has no error. The dead server returns as a target, with a partial resync. -pg-rounds=10 is the long form.
func TestPostgresSurvivesItsServers(t *testing.T) {
	c := demo(t, "512MiB")
	c.guardFor(guardAfter + time.Duration(*pgRounds)*time.Minute)
	c.run("a", "volume", "attach", c.name)
	sh(t, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", c.attached("a"))
	p := postgresIn(c, c.mount("a"))
	p.run("initdb", "-D", p.data, "--data-checksums", "--auth=trust", "--wal-segsize=4")
	p.start()
	p.sql("CREATE EXTENSION amcheck; CREATE TABLE ledger (n bigint PRIMARY KEY, payload text NOT NULL); CREATE INDEX ON ledger (md5(payload))")
	p.run("pgbench", "-i", "-q", "-s", "2", "postgres")

	l := &ledger{committed: map[int64]bool{}}
	source := "a"
	for round := range *pgRounds {
		heir := c.after(source)
		benched := l.work(p)
		p.end(syscall.SIGINT)
		l.wait(p, benched)
		begin := time.Now()
		c.run(heir, "switchover", c.name, "--to", heir, "--unmount", "--yes")
		moved := time.Since(begin)
		p = c.startAt(heir, l)
		c.waitMirroring(heir, c.others(heir)...)

		source, heir = heir, c.after(heir)
		benched = l.work(p)
		c.kill(source)
		l.wait(p, benched)
		p.end(syscall.SIGKILL)
		c.unmount(source)
		begin = time.Now()
		c.takeOver(c.after(heir), heir)
		served := time.Since(begin)
		p = c.startAt(heir, l)
		c.start(source)
		c.waitMirroring(heir, c.others(heir)...)
		m, err := c.mirror(heir, source)
		if err := wantResync(m, err, "partial"); err != nil {
			t.Error(err)
		}
		c.noResyncOfKind("full", "compare")
		t.Logf("round %d: switched over to %s in %d ms; it died, %s serves after %d ms; %d transactions committed in all, %d unknown; resync of %s: %s",
			round+1, source, moved.Milliseconds(), heir, served.Milliseconds(), len(l.committed), l.unknown, source, resyncText(m))
		source = heir
	}
	p.end(syscall.SIGINT)
	c.unmount(source)
	sh(t, "e2fsck", "-fn", c.attached(source))
	c.same()
}

// after is the next of the nodes.
func (c *cluster) after(node string) string {
	return c.nodes[(slices.Index(c.nodes, node)+1)%len(c.nodes)]
}

// work lets pgbench and the clients commit some hundred transactions, and leaves them at it.
func (l *ledger) work(p *postgres) (benched <-chan struct{}) {
	p.c.t.Helper()
	l.use(p)
	benched = p.bench()
	goal := l.count.Load() + 500
	p.c.wait("500 more transactions", 2*settleMax, func() error {
		if have := l.count.Load(); have < goal {
			return fmt.Errorf("%d missing", goal-have)
		}
		return nil
	})
	return benched
}

// startAt starts the data base at the new source and checks everything.
func (c *cluster) startAt(node string, l *ledger) *postgres {
	c.t.Helper()
	c.mount(node) // replays its journal, after a death
	c.unmount(node)
	sh(c.t, "e2fsck", "-fn", c.attached(node))
	p := postgresIn(c, c.mount(node))
	p.start()
	l.check(p)
	p.run("pg_amcheck", "--heapallindexed", "--rootdescend", "--all")
	return p
}

func resyncText(m *api.MirrorStatus) string {
	if m == nil || m.Resync == nil {
		return "none"
	}
	return fmt.Sprintf("%s, %.1f MiB sent", m.Resync.Kind, float64(m.Resync.BytesSent)/mib)
}

// takeOver makes the server to the source by force, asked at another one, once it is clear that the old one is gone. What a
// careful administrator looks at first, the plan, says that nothing answered is at risk.
func (c *cluster) takeOver(at, to string) {
	c.t.Helper()
	c.wait(to+" takes over", settleMax, func() error {
		r := c.execute(at, "switchover", c.name, "--to", to, "--force", "--yes")
		if r.code == exitRefused && strings.Contains(r.stderr, lineage.RuleSourceAlive) {
			return r.err() // not yet clear
		}
		if err := r.err(); err != nil {
			c.t.Fatal(err)
		}
		return nil
	})
}
