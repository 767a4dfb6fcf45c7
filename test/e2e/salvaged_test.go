package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"keelson/internal/api"
)

// salvages lists what the node's agent knows of.
func (c *cluster) salvages(node string) ([]api.Salvage, error) {
	r := c.execute(node, "salvage", "list", c.name, "--json")
	if err := r.err(); err != nil {
		return nil, err
	}
	var all []api.Salvage
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		return nil, fmt.Errorf("%w: %s", err, r.stdout)
	}
	return all, nil
}

// takeSalvages exports every salvage, hands each stretch of it to see, and deletes it. All agents must run. Returns how many there were.
func (c *cluster) takeSalvages(see func(node string, off int64, data []byte)) int {
	c.t.Helper()
	all, err := c.salvages(c.nodes[0])
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range all {
		if s.Damaged != "" {
			c.t.Errorf("salvage %s of %s is damaged: %s", s.ID, s.Node, s.Damaged)
			continue
		}
		dir := filepath.Join(c.dir, "salvage-"+s.ID)
		c.run(s.Node, "salvage", "export", c.name, s.ID, "--node", s.Node, "--dir", dir)
		bytes, err := eachRun(dir, func(off int64, data []byte) { see(s.Node, off, data) })
		if err != nil {
			c.t.Errorf("salvage %s of %s: %v", s.ID, s.Node, err)
		}
		if bytes != s.Bytes {
			c.t.Errorf("salvage %s of %s was exported as %d bytes, it has %d", s.ID, s.Node, bytes, s.Bytes)
		}
		c.run(s.Node, "salvage", "delete", c.name, s.ID, "--node", s.Node, "--yes")
		if err := os.RemoveAll(dir); err != nil {
			c.t.Error(err)
		}
	}
	return len(all)
}

// eachRun reads the stretches of an exported salvage.
func eachRun(dir string, see func(off int64, data []byte)) (bytes int64, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return 0, err
	}
	var manifest struct {
		Runs []struct {
			File   string `json:"file"`
			Offset int64  `json:"offset"`
			Length int64  `json:"length"`
		} `json:"runs"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return 0, err
	}
	for _, r := range manifest.Runs {
		data, err := os.ReadFile(filepath.Join(dir, r.File))
		if err != nil {
			return bytes, err
		}
		if int64(len(data)) != r.Length {
			return bytes, fmt.Errorf("%s has %d bytes, the manifest says %d", r.File, len(data), r.Length)
		}
		bytes += r.Length
		see(r.Offset, data)
	}
	return bytes, nil
}
