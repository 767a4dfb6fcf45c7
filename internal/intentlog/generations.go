package intentlog

import (
	"fmt"
	"slices"
	"sync"

	"keelson/internal/lineage"
)

const (
	generationsMax     = 65535 // indexes of a Version
	generationsCompact = 1000  // a longer table is cleared of what nothing refers to, at Open
)

// genTable is the table of generations in memory: exactly the durable header's.
type genTable struct {
	mu    sync.RWMutex
	ids   []lineage.GenID
	index map[lineage.GenID]uint16
}

func (t *genTable) set(ids []lineage.GenID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids = slices.Clone(ids)
	t.index = make(map[lineage.GenID]uint16, len(ids))
	for i, id := range ids {
		if id != (lineage.GenID{}) {
			t.index[id] = uint16(i)
		}
	}
}

func (t *genTable) find(id lineage.GenID) (uint16, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i, ok := t.index[id]
	return i, ok
}

// GenByIndex is the generation that a Version's Index means in this log; the zero id for unknown and for free indexes.
func (l *Log) GenByIndex(i uint16) lineage.GenID {
	l.table.mu.RLock()
	defer l.table.mu.RUnlock()
	if int(i) >= len(l.table.ids) {
		return lineage.GenID{}
	}
	return l.table.ids[i]
}

// GenIndex is the index of a generation in this log's table. A new one is added durably before it returns.
func (l *Log) GenIndex(id lineage.GenID) (uint16, error) {
	if id == (lineage.GenID{}) {
		return 0, fmt.Errorf("intent log %s: the zero id names no generation", l.dir)
	}
	if i, ok := l.table.find(id); ok {
		return i, nil
	}
	var index int
	full := false
	err := l.saveDoc("add a generation", func(d *headerDoc) {
		if index = slices.Index(d.Generations, id); index >= 0 {
			return
		}
		index = len(d.Generations)
		if free := slices.Index(d.Generations[2:], lineage.GenID{}); free >= 0 {
			index = free + 2
			d.Generations[index] = id
			return
		}
		if full = index > generationsMax; !full {
			d.Generations = append(d.Generations, id)
		}
	})
	if err != nil {
		return 0, err
	}
	if full {
		return 0, fmt.Errorf("intent log %s: its table of generations is full (%d): restart the agent, which drops those no longer in use", l.dir, generationsMax)
	}
	l.header.mu.Lock()
	l.table.set(l.header.doc.Generations)
	l.header.mu.Unlock()
	return uint16(index), nil
}

// checkTable says what is wrong with a table that was read.
func checkTable(ids []lineage.GenID) error {
	if len(ids) < 2 || len(ids) > generationsMax+1 || ids[0] != (lineage.GenID{}) || ids[1] != lineage.ZeroGen {
		return fmt.Errorf("its table of %d generations does not begin with unknown and zero", len(ids))
	}
	seen := make(map[lineage.GenID]bool, len(ids))
	for _, id := range ids[1:] {
		if seen[id] && id != (lineage.GenID{}) {
			return fmt.Errorf("its table of generations has %s twice", id)
		}
		seen[id] = true
	}
	return nil
}

// compactTable frees the indexes of a long table that no committed map page and no history refers to. Free indexes are
// used again, so the pages stay as they are. Called by Open before anything else changes.
func (l *Log) compactTable() error {
	ids := slices.Clone(l.header.doc.Generations)
	if len(ids) <= generationsCompact {
		return nil
	}
	used := l.versions.indexesInUse(len(ids))
	freed := 0
	for i := 2; i < len(ids); i++ {
		if !used[i] && ids[i] != (lineage.GenID{}) && l.header.doc.History.Find(ids[i]) < 0 && l.header.doc.Position.Gen != ids[i] {
			ids[i] = lineage.GenID{}
			freed++
		}
	}
	if freed == 0 {
		return nil
	}
	for ids[len(ids)-1] == (lineage.GenID{}) {
		ids = ids[:len(ids)-1]
	}
	if err := l.saveDoc("drop generations no longer in use", func(d *headerDoc) { d.Generations = ids }); err != nil {
		return err
	}
	l.table.set(ids)
	return nil
}
