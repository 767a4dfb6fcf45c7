package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// exported compares what a salvage was exported as with the bytes that were given up at that offset.
func exported(dir string, off int64, want []byte) error {
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return err
	}
	var manifest struct {
		Runs []struct {
			File   string `json:"file"`
			Offset int64  `json:"offset"`
			Length int64  `json:"length"`
		} `json:"runs"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return err
	}
	got := make([]byte, len(want))
	for _, r := range manifest.Runs {
		data, err := os.ReadFile(filepath.Join(dir, r.File))
		if err != nil {
			return err
		}
		if int64(len(data)) != r.Length || r.Offset < off || r.Offset+r.Length > off+int64(len(want)) {
			return fmt.Errorf("%w: a run of %d bytes at %d in a file of %d", errContent, r.Length, r.Offset, len(data))
		}
		copy(got[r.Offset-off:], data)
	}
	if !bytes.Equal(got, want) {
		return errContent
	}
	return nil
}
