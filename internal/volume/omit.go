package volume

import "keelson/internal/intentlog"

// Protections that only a whole cluster shows the need of: the simulator leaves out one after the other.
const (
	omitByRegion       omission = 1 << (iota + 16) // a write's parts are decided region by region (rule 4)
	omitUnknown                                    // a region whose write failed is unknown (rule 5)
	omitDrain                                      // a checkpoint waits for writes in flight (rule 7)
	omitSync                                       // a source's flush makes data durable (rule 10)
	omitBarrier                                    // ... and a target's (rule 15)
	omitFreeze                                     // the position is frozen, and the header says so, in a resync (rule 11)
	omitCheckpoint                                 // a checkpoint comes before history and position are adopted (rule 11)
	omitCutBack                                    // history and position go back to where they agree with the source (rule 12)
	omitNumbers                                    // a restarted source begins a new generation above all numbers used (rule 1)
	omitMeanwhile                                  // a write during the comparison puts its regions into the set (rule 13)
	omitAcks                                       // an answer waits for the sync targets (rule 17)
	omitRequired                                   // an answer waits for lost members until the record is durable without them (rule 17)
	omitVoid                                       // a new anchor voids the images of the last one (rule 26)
	omitLineage                                    // a salvage goes by lineage, not by position (rule 28)
	omitSalvageArrived                             // what an interrupted resync brought is salvaged when another line goes on with it (rule 28)
	omitZero                                       // trim and write-zeroes read as zero (rule 30)
)

var omissions = map[string]omission{
	"save-stream-writes": omitStreamSaves, "save-first": omitSaveFirst, "adopt-first": omitAdoptFirst, "salvage-unknown": omitSalvageUnknown,
	"salvage-rollback": omitSalvageRollback, "region-by-region": omitByRegion, "failed-is-unknown": omitUnknown, "checkpoint-drains": omitDrain,
	"flush-syncs": omitSync, "flush-is-a-barrier": omitBarrier, "position-frozen": omitFreeze, "checkpoint-before-adoption": omitCheckpoint,
	"cut-back": omitCutBack, "new-generation": omitNumbers, "writes-during-comparison": omitMeanwhile, "wait-for-acks": omitAcks,
	"salvage-arrived": omitSalvageArrived, "wait-for-shrunk-record": omitRequired, "anchor-voids-images": omitVoid, "salvage-by-lineage": omitLineage, "zero-reads-as-zero": omitZero,
}

// Omit leaves out the protection of that name, here or in the intent log, if there is one: for tests, which show that their
// checks notice.
func (o *Options) Omit(name string) {
	o.omit |= omissions[name]
	o.omitLog = name
}

// adoptAtOnce is beginResync without rule 11.
func (s *session) adoptAtOnce() error {
	s.v.mu.Lock()
	s.v.position, s.v.gen = s.source.at, s.source.history.Last()
	s.v.mu.Unlock()
	return s.v.log.Save(func(h *intentlog.Header) { h.History, h.Position = s.source.history, s.source.at })
}

// goOnCounting is BeginGeneration without rule 1: it reports whether it went on in the generation of an earlier start.
func (v *Volume) goOnCounting() bool {
	h := v.log.Header()
	last := h.History.Last()
	if !v.omits(omitNumbers) || len(h.History) == 0 || last.Term != h.Served {
		return false
	}
	index, err := v.log.GenIndex(last.ID)
	if err != nil {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.number, v.gen, v.index = v.at().Number, last, index
	return true
}

// commitEnd saves the header at the end of a resync: in a checkpoint.
func (v *Volume) commitEnd(update func(*intentlog.Header)) error {
	if v.omits(omitCheckpoint) {
		return v.log.Save(update)
	}
	return v.checkpoint(true, update)
}
