package volume

import (
	"time"

	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// tick is how often the keeper looks at deadlines.
const tick = 100 * time.Millisecond

// expireEvery is how often the keeper looks for salvages whose time is over.
const expireEvery = time.Minute

// keeper looks at deadlines: it drops links that acknowledge nothing, fails what waits too long for copies, sees whether the
// disk hangs, and asks for checkpoints. It never waits for the disk. It runs until the volume is closed.
func (v *Volume) keeper() {
	defer v.done.Done()
	timer := time.NewTicker(tick)
	defer timer.Stop()
	next := time.Now().Add(v.o.Limits.CheckpointEvery)
	for {
		select {
		case <-v.stop:
			return
		case now := <-timer.C:
			v.dropStalled()
			v.failShort(now)
			v.watchDisk()
			if now.After(next) && v.changed.Load() {
				v.askCheckpoint()
				next = now.Add(v.o.Limits.CheckpointEvery)
			}
		}
	}
}

// checkpointer makes checkpoints when it is time or too much is hot, and deletes salvages whose time is over. It runs until
// the volume is closed.
func (v *Volume) checkpointer() {
	defer v.done.Done()
	timer := time.NewTicker(expireEvery)
	defer timer.Stop()
	v.expire(time.Now())
	for {
		select {
		case <-v.stop:
			return
		case now := <-timer.C:
			v.expire(now)
			v.noteAgain()
		case <-v.wantCkpt:
			if v.Failed() != nil {
				v.noteAgain()
				continue
			}
			if err := v.checkpoint(false, nil); err != nil {
				v.o.Log.Error("checkpoint failed", "volume", v.name, "err", err)
			}
		}
	}
}

func (v *Volume) askCheckpoint() {
	select {
	case v.wantCkpt <- struct{}{}:
	default:
	}
}

// checkpoint makes data, then map and position durable, then cools extents (rule 7): all that nothing has written to
// since it began, or only what was idle for longer. update, if not nil, changes the header in the same atomic write.
func (v *Volume) checkpoint(coolAll bool, update func(*intentlog.Header)) error {
	v.ckptMu.Lock()
	defer v.ckptMu.Unlock()
	if err := v.Failed(); err != nil {
		return err
	}
	v.changed.Store(false)
	var before int
	err := v.log.Checkpoint(intentlog.CheckpointOptions{
		Position: func() lineage.Position {
			v.mu.Lock()
			defer v.mu.Unlock()
			before, v.epoch = v.epoch, 1-v.epoch
			return v.at()
		},
		Drain: func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			for v.flight[before] > 0 && !v.omits(omitDrain) {
				v.freed.Wait()
			}
		},
		SyncData: func() error {
			err := v.datasync()
			if err != nil { // whatever the reason: what it dropped, the next one would call durable
				v.fail(err)
			}
			return err
		},
		Update:  update,
		CoolAll: coolAll,
	})
	v.stats.checkpoints.Add(1)
	if err != nil {
		v.changed.Store(true)
		return v.logError(err)
	}
	return nil
}

// CheckpointHere makes a whole checkpoint beside the caller; CheckedHere is posted when it is durable.
func (v *Volume) CheckpointHere(plan string) {
	v.done.Add(1)
	go func() {
		defer v.done.Done()
		if err := v.checkpoint(true, nil); err != nil && !v.servesThere() {
			v.o.Log.Error("checkpoint failed", "volume", v.name, "err", err)
			return // the plan's time limit ends it
		}
		v.mu.Lock()
		last := v.at()
		v.mu.Unlock()
		v.post(mirror.CheckedHere{Plan: plan, Last: last})
	}()
}
