package address

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// The address is renewed every renewEvery for lifetime: a few renewals may be late. After it was set it is announced at
// these moments: an announcement may be lost, or overtaken by an answer of the old source.
const (
	lifetime   = 20 * time.Second
	renewEvery = 5 * time.Second
)

var announceAfter = []time.Duration{0, 200 * time.Millisecond, time.Second, 3 * time.Second}

// States of a service address.
const (
	Absent = "absent"
	Set    = "set"
	Failed = "failed" // it ought to be set; Reason says why it is not. It is tried again
)

// Options of a Keeper.
type Options struct {
	Address Address
	Log     *slog.Logger
	Note    func(level, message, next string) // an event for the administrator; must not block
	Changed func()                            // what Status says has changed; must not block
	Coming  func()                            // called before it is set or renewed
	Going   func()                            // called before it is taken away: the last moment in which clients can be told; bounded
}

// Status is what there is now.
type Status struct{ State, Reason string }

// Keeper keeps one address where it is wanted. Its goroutine alone changes it, so nobody else waits for the kernel.
type Keeper struct {
	o     Options
	kick  chan struct{}
	stop  context.CancelFunc
	done  chan struct{}
	shown atomic.Pointer[Status]

	mu     sync.Mutex
	wanted bool
	waits  []chan struct{} // for what is wanted to be brought about, or to have failed
}

// Open starts a keeper. The address is taken away first, if an earlier agent left it.
func Open(o Options) *Keeper {
	ctx, stop := context.WithCancel(context.Background())
	k := &Keeper{o: o, kick: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	k.shown.Store(&Status{State: Absent})
	go k.run(ctx)
	return k
}

// Want says whether the address is to be here. It never blocks.
func (k *Keeper) Want(wanted bool) {
	k.mu.Lock()
	k.wanted = wanted
	k.mu.Unlock()
	k.wake()
}

func (k *Keeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Settle returns when what is wanted now was brought about, or has failed.
func (k *Keeper) Settle(ctx context.Context) {
	c := make(chan struct{})
	k.mu.Lock()
	k.waits = append(k.waits, c)
	k.mu.Unlock()
	k.wake()
	select {
	case <-c:
	case <-k.done:
	case <-ctx.Done():
	}
}

// Status is what there is now.
func (k *Keeper) Status() Status { return *k.shown.Load() }

// Close takes the address away.
func (k *Keeper) Close() {
	k.Want(false)
	k.stop()
	<-k.done
}

func (k *Keeper) run(ctx context.Context) {
	defer close(k.done)
	if err := k.o.Address.remove(); err != nil {
		k.o.Log.Warn("service address", "address", k.o.Address, "err", err)
	}
	timer := time.NewTimer(0) // the next renewal or announcement
	defer timer.Stop()
	said := 0 // announcements since it was set
	for {
		k.mu.Lock()
		wanted, waits := k.wanted, k.waits
		k.waits = nil
		k.mu.Unlock()
		if had := k.Status().State == Set; !had {
			said = 0
		}
		pause := renewEvery
		switch {
		case wanted && k.set() && said < len(announceAfter):
			if err := k.o.Address.announce(); err != nil {
				k.o.Log.Warn("service address", "address", k.o.Address, "err", err)
			}
			if said++; said < len(announceAfter) {
				pause = announceAfter[said] - announceAfter[said-1]
			}
		case !wanted:
			k.unset()
		}
		for _, c := range waits {
			close(c)
		}
		if ctx.Err() != nil {
			k.unset() // if it was wanted when this began
			return
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-k.kick:
		case <-ctx.Done():
		}
	}
}

// set puts the address here, or renews it, and reports whether it is here.
func (k *Keeper) set() bool {
	k.o.Coming()
	err := k.o.Address.add(uint32(lifetime / time.Second))
	if err != nil {
		if k.show(Status{Failed, err.Error()}) {
			k.o.Note("error", "the service address is not set: "+err.Error(), "see [[volume]] in the configuration, and ip address show; it is tried again every "+renewEvery.String())
		}
		return false
	}
	if k.show(Status{State: Set}) {
		k.o.Note("info", fmt.Sprintf("the service address %s is set", k.o.Address), "")
	}
	return true
}

// unset takes the address away; until that is done the status says that it is there.
func (k *Keeper) unset() {
	was := k.Status().State
	if was == Absent {
		return
	}
	k.o.Going()
	if err := k.o.Address.remove(); err != nil {
		if k.show(Status{Set, err.Error()}) {
			k.o.Note("error", "the service address is not taken away: "+err.Error(), fmt.Sprintf("ip address del %s dev %s", k.o.Address.Prefix, k.o.Address.Interface))
		}
		return
	}
	if k.show(Status{State: Absent}) && was == Set {
		k.o.Note("info", fmt.Sprintf("the service address %s is taken away", k.o.Address), "")
	}
}

// show publishes the status and reports whether it is another.
func (k *Keeper) show(s Status) bool {
	if *k.shown.Swap(&s) == s {
		return false
	}
	k.o.Changed()
	return true
}
