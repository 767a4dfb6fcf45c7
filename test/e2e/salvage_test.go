package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// exported compares what a salvage was exported as with the bytes that were given up, by their offsets.
func exported(dir string, want map[int64][]byte) error {
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return err
	}
	var manifest struct {
		Salvage struct {
			Node, From string
			Time       time.Time
		}
		Runs []struct {
			File   string `json:"file"`
			Offset int64  `json:"offset"`
			Length int64  `json:"length"`
			SHA256 string `json:"sha256"`
		} `json:"runs"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return err
	}
	if m := manifest.Salvage; m.Node == "" || m.From == "" || m.Time.IsZero() || len(manifest.Runs) != len(want) {
		return fmt.Errorf("%w: %s", errContent, text)
	}
	for _, r := range manifest.Runs {
		data, err := os.ReadFile(filepath.Join(dir, r.File))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		if int64(len(data)) != r.Length || hex.EncodeToString(sum[:]) != r.SHA256 || !bytes.Equal(data, want[r.Offset]) {
			return fmt.Errorf("%w: a run of %d bytes at %d in a file of %d", errContent, r.Length, r.Offset, len(data))
		}
	}
	return nil
}
