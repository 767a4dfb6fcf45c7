package undo

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"keelson/internal/block"
)

// ManifestFile is the name of the last file of an export.
const ManifestFile = "manifest.json"

// runsMax is how many files an export has at most, besides the manifest.
const runsMax = 100_000

// Manifest says what the files of an export are.
type Manifest struct {
	Format  int     `json:"format"` // 1
	Salvage Salvage `json:"salvage"`
	Runs    []Run   `json:"runs"`
}

// Run is one file: a stretch of the volume without gaps.
type Run struct {
	File     string       `json:"file"`
	Offset   int64        `json:"offset"` // in the volume, bytes
	Length   int64        `json:"length"` // bytes
	SHA256   string       `json:"sha256"` // of the file, hexadecimal
	Versions []RunVersion `json:"versions"`
}

// RunVersion is a part of a run whose regions have one version.
type RunVersion struct {
	Offset     int64  `json:"offset"` // in the volume, bytes
	Length     int64  `json:"length"`
	Generation string `json:"generation,omitempty"` // absent: the version is unknown
	Number     uint64 `json:"number,omitempty"`
}

// Export writes a salvage as files, one after the other: a raw file for each run of regions, then the manifest. What was
// written when an error comes is the caller's to remove.
func (s *Store) Export(id string, to func(name string) (io.WriteCloser, error)) error {
	v, err := s.Open(id)
	if err != nil {
		return err
	}
	defer v.Close()
	if err := v.export(to); err != nil {
		return s.say("export salvage "+id, err)
	}
	return nil
}

func (v *View) export(to func(name string) (io.WriteCloser, error)) error {
	m := Manifest{Format: 1, Salvage: v.meta}
	for first := 0; first < len(v.entries); {
		end := first + 1
		for end < len(v.entries) && v.entries[end].region == v.entries[end-1].region+1 {
			end++
		}
		if len(m.Runs) == runsMax {
			return fmt.Errorf("it would be more than %d files: attach a view of it instead", runsMax)
		}
		run, err := v.exportRun(v.entries[first:end], to)
		if err != nil {
			return err
		}
		m.Runs = append(m.Runs, run)
		first = end
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeTo(to, ManifestFile, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// exportRun writes one file.
func (v *View) exportRun(entries []entry, to func(name string) (io.WriteCloser, error)) (Run, error) {
	run := Run{Offset: entries[0].region * v.meta.RegionBytes}
	run.File = fmt.Sprintf("%016d.raw", run.Offset)
	sum := sha256.New()
	buf := block.NewBuffer(int(v.meta.RegionBytes))
	defer buf.Release()
	err := writeTo(to, run.File, func(w io.Writer) error {
		for _, e := range entries {
			p := buf.Bytes[:v.meta.lengthOf(e.region)]
			h, _, err := v.head(e)
			if err == nil {
				err = v.read(e, p, 0)
			}
			if err != nil {
				return err
			}
			run.version(h, run.Offset+run.Length, int64(len(p)))
			run.Length += int64(len(p))
			sum.Write(p)
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
		return nil
	})
	run.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return run, err
}

// version adds a region's.
func (r *Run) version(h recordHead, off, length int64) {
	next := RunVersion{Offset: off, Length: length, Number: h.number}
	if !h.unknown {
		next.Generation = h.gen.String()
	}
	if k := len(r.Versions) - 1; k >= 0 && r.Versions[k].Generation == next.Generation && r.Versions[k].Number == next.Number {
		r.Versions[k].Length += length
		return
	}
	r.Versions = append(r.Versions, next)
}

// writeTo makes one file.
func writeTo(to func(name string) (io.WriteCloser, error), name string, write func(io.Writer) error) error {
	w, err := to(name)
	if err != nil {
		return err
	}
	err = write(w)
	if e := w.Close(); err == nil {
		err = e
	}
	return err
}
