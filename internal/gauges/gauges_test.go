package gauges

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

var update = flag.Bool("update", false, "write docs/METRICS.md anew")

const docs = "../../docs"

type fixed struct{ status *api.Status }

func (f fixed) Now() *api.Status { return f.status }
func (f fixed) Latencies() []Latency {
	return []Latency{{"data", "write", 3, 0.5, map[float64]uint64{0.001: 1, 0.01: 2}}}
}
func (f fixed) CertificateEnds() map[string]time.Time {
	return map[string]time.Time{"node": time.Unix(2_000_000_000, 0)}
}
func (f fixed) Events() map[string]uint64 { return map[string]uint64{"warning": 4} }

func status() *api.Status {
	return &api.Status{Cluster: "5f0c", Node: "a", Version: "1.2", Nodes: []api.NodeStatus{{Name: "a", Reachable: true}, {Name: "b"}},
		Volumes: []api.VolumeStatus{{
			Name: "data", Role: "source", State: "Serving", SizeBytes: 1 << 30, Term: 3, Position: 8141, InSync: []string{"a"}, HotExtents: 7,
			Counters: map[string]int64{"writes": 12, "write_bytes": 4096, "disk_errors": 2, "switchovers": 5},
			Undo:     &api.UndoStatus{State: "given-up", Bytes: 100, BytesMax: 1000},
			Salvage:  &api.SalvageStatus{Count: 3, Bytes: 30, RoomBytes: 70},
			Copies:   2, ServedFrom: "b", Clients: []api.ClientStatus{{Remote: "x"}},
			Switchover: []api.Candidate{{To: "b"}, {To: "c", OK: true}},
			Mirrors: []api.MirrorStatus{{Source: "a", Target: "b", State: "Resync", LagBytes: 65536, LagSeconds: 1.5, QueuedBytes: 512,
				Resync: &api.ResyncStatus{State: "running", BytesTotal: 200, BytesSent: 100}}},
		}}}
}

func get(t *testing.T, s *api.Status, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(fixed{s}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestMetricsSayWhatTheStatusSays(t *testing.T) {
	code, text := get(t, status(), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	for _, line := range []string{
		`keelson_agent_info{cluster="5f0c",node="a",version="1.2"} 1`,
		`keelson_node_reachable{peer="b"} 0`,
		`keelson_events_total{level="warning"} 4`,
		`keelson_certificate_end_timestamp_seconds{certificate="node"} 2e+09`,
		`keelson_volume_role{role="source",volume="data"} 1`,
		`keelson_volume_role{role="target",volume="data"} 0`,
		`keelson_volume_state{state="Serving",volume="data"} 1`,
		`keelson_volume_state{state="Failed",volume="data"} 0`,
		`keelson_volume_term{volume="data"} 3`,
		`keelson_volume_in_sync_copies{volume="data"} 1`,
		`keelson_volume_safe_targets{volume="data"} 1`,
		`keelson_volume_hot_extents{volume="data"} 7`,
		`keelson_volume_writes_total{volume="data"} 12`,
		`keelson_volume_disk_errors_total{volume="data"} 2`,
		`keelson_volume_switchovers_total{volume="data"} 5`,
		`keelson_volume_copies{volume="data"} 2`,
		`keelson_volume_served_elsewhere{volume="data"} 1`,
		`keelson_volume_clients{volume="data"} 1`,
		`keelson_undo_state{state="given-up",volume="data"} 1`,
		`keelson_undo_state{state="rolling",volume="data"} 0`,
		`keelson_undo_bytes{volume="data"} 100`,
		`keelson_undo_limit_bytes{volume="data"} 1000`,
		`keelson_salvages{volume="data"} 3`,
		`keelson_salvage_bytes{volume="data"} 30`,
		`keelson_salvage_room_bytes{volume="data"} 70`,
		`keelson_mirror_queued_bytes{source="a",target="b",volume="data"} 512`,
		`keelson_mirror_state{source="a",state="Resync",target="b",volume="data"} 1`,
		`keelson_mirror_state{source="a",state="Mirroring",target="b",volume="data"} 0`,
		`keelson_mirror_lag_bytes{source="a",target="b",volume="data"} 65536`,
		`keelson_mirror_lag_seconds{source="a",target="b",volume="data"} 1.5`,
		`keelson_resync_running{source="a",target="b",volume="data"} 1`,
		`keelson_resync_sent_bytes{source="a",target="b",volume="data"} 100`,
		`keelson_request_duration_seconds_bucket{op="write",volume="data",le="0.01"} 2`,
		`keelson_request_duration_seconds_bucket{op="write",volume="data",le="+Inf"} 3`,
		`keelson_request_duration_seconds_sum{op="write",volume="data"} 0.5`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if code, _ := get(t, status(), "/v1/Status"); code != http.StatusNotFound {
		t.Errorf("the control interface answers here: %d", code)
	}
}

func TestReadiness(t *testing.T) {
	if code, text := get(t, status(), "/healthz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("%d %q", code, text)
	}
	if code, text := get(t, status(), "/readyz"); code != http.StatusOK || text != `{"ready":true,"why":[]}`+"\n" {
		t.Errorf("%d %q", code, text)
	}
	s := status()
	s.Volumes[0].State, s.Volumes[0].Reason = "Failed", "its disk"
	code, text := get(t, s, "/readyz")
	var r Readiness
	if err := json.Unmarshal([]byte(text), &r); err != nil || code != http.StatusServiceUnavailable || r.Ready || !strings.Contains(strings.Join(r.Why, ""), "its disk") {
		t.Errorf("%d %q %v", code, text, err)
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Metrics\n\nWritten by `go test ./internal/gauges -update`; change the table in `internal/gauges/table.go` instead.\n\n" +
		"Served as `/metrics` on the local socket (`curl --unix-socket /run/keelson/agent.sock http://keelson/metrics`) and at `[metrics] address`. `/healthz` answers while the agent\n" +
		"lives; `/readyz` answers 503 with reasons while a volume here is Failed, Closed or HandedOver. Alert rules and a Grafana dashboard are in [monitoring/](monitoring/alerts.yml).\n\n" +
		"| metric | kind | labels | |\n| --- | --- | --- | --- |\n")
	for _, m := range metrics {
		kind := "gauge"
		if m.kind == counter {
			kind = "counter"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, kind, strings.Join(m.labels, ", "), m.help)
	}
	b.WriteString("| `keelson_request_duration_seconds` | histogram | volume, op | How long applications waited for answers of a volume whose source is here, by operation. |\n\n" +
		"States of a volume: " + strings.Join(volumeStates, ", ") + ". Of a mirror: " + strings.Join(mirrorStates, ", ") + ". Those of the Go runtime and of the process (`go_`, `process_`) are served besides.\n")
	path := filepath.Join(docs, "METRICS.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s is not as the table says (go test ./internal/gauges -update writes it): %v", path, err)
	}
}

// Alert rules and dashboard ask only for metrics that there are.
func TestRulesAndDashboardNameExistingMetrics(t *testing.T) {
	known := []string{"keelson_request_duration_seconds_bucket", "keelson_request_duration_seconds_sum", "keelson_request_duration_seconds_count"}
	for _, m := range metrics {
		known = append(known, m.name)
	}
	name := regexp.MustCompile(`\bkeelson_[a-z_]+`)
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		text, err := os.ReadFile(filepath.Join(docs, "monitoring", file))
		if err != nil {
			t.Fatal(err)
		}
		found := name.FindAllString(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, m := range found {
			if !slices.Contains(known, m) {
				t.Errorf("%s asks for %s, which there is not", file, m)
			}
		}
	}
	text, _ := os.ReadFile(filepath.Join(docs, "monitoring", "dashboard.json"))
	if !json.Valid(text) {
		t.Error("dashboard.json is no JSON")
	}
}

// Prometheus' own tool finds nothing wrong in names, rules, and in what the rules say.
func TestPromtool(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Fatal("promtool is missing: bash tools/deps.sh installs it")
	}
	_, text := get(t, status(), "/metrics")
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(text)
	if out, err := lint.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("check metrics: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		c := exec.Command("promtool", args...)
		c.Dir = filepath.Join(docs, "monitoring")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
