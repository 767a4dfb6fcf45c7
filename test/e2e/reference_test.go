package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The examples of docs/API.md work as they stand, but for the path of the socket.
func TestReferenceExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/API.md")
	if err != nil {
		t.Fatal(err)
	}
	c := demo(t, "16MiB")
	count := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "curl ") {
			continue
		}
		count++
		out, err := exec.Command("sh", "-c", strings.ReplaceAll(line, "/run/keelson/agent.sock", c.path("a", "agent.sock"))).CombinedOutput()
		if err != nil {
			t.Fatalf("%s%v\n%s", line, err, out)
		}
		for answer := range strings.Lines(string(out)) {
			var document map[string]json.RawMessage
			if err := json.Unmarshal([]byte(answer), &document); err != nil || document["error"] != nil {
				t.Errorf("%s%s%v", line, answer, err)
			}
		}
	}
	if count < 5 {
		t.Errorf("%d examples", count)
	}
	c.waitMirroring("a", "b", "c")
}
