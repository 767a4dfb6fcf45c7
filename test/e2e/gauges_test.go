package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What supervisors and administrators outside see: metrics, readiness, notifications; and events that outlive agents.
func TestMetricsNotificationsAndKeptEvents(t *testing.T) {
	c := demo(t, "16MiB")
	address, told := freeAddress(t), c.path("a", "told")
	notify := c.path("a", "notify")
	if err := os.WriteFile(notify, []byte("#!/bin/sh\necho \"$KEELSON_EVENT_OBJECT: $KEELSON_EVENT_MESSAGE\" >>"+told+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.stop("a")
	c.edit("a", `# address = ""`+"\n\n# Who is told", `address = "`+address+`"`+"\n\n# Who is told")
	c.edit("a", `# flight-recorder = "off"`, `flight-recorder = "on"`)
	c.edit("a", `# command = ""`, `command = "`+notify+`"`)
	c.start("a")
	c.waitMirroring("a", "b", "c")
	c.writeAt("a", 0, 64<<10, 1)

	local := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.path("a", "agent.sock"))
	}}}
	for who, client := range map[string]*http.Client{"local socket": local, "metrics address": {Transport: &http.Transport{DisableKeepAlives: true}}} {
		code, text := get(t, client, "http://"+address+"/metrics")
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", who, code, text)
		}
		for _, line := range []string{
			`keelson_volume_state{state="Serving",volume="data"} 1`,
			`keelson_mirror_state{source="a",state="Mirroring",target="b",volume="data"} 1`,
			`keelson_volume_in_sync_copies{volume="data"} 3`,
			`keelson_request_duration_seconds_count{op="write",volume="data"} `,
			`keelson_certificate_end_timestamp_seconds{certificate="node"} `,
		} {
			if !strings.Contains(text, line) {
				t.Errorf("%s: missing %s", who, line)
			}
		}
		if strings.Contains(text, `keelson_request_duration_seconds_count{op="write",volume="data"} 0`) {
			t.Errorf("%s: the write was not counted", who)
		}
		if code, text := get(t, client, "http://"+address+"/readyz"); code != http.StatusOK || !strings.Contains(text, `"ready":true`) {
			t.Errorf("%s: %d %s", who, code, text)
		}
	}
	if code, _ := get(t, &http.Client{}, "http://"+address+"/v1/Status"); code != http.StatusNotFound {
		t.Errorf("the control interface is open at the metrics address: %d", code)
	}

	c.run("a", "debug", "flight", c.path("a", "flight.trace"))
	if text, err := os.ReadFile(c.path("a", "flight.trace")); err != nil || !strings.HasPrefix(string(text), "go 1.") {
		t.Errorf("flight recording of %d bytes, %v", len(text), err)
	}
	if r := c.execute("b", "debug", "flight", c.path("b", "flight.trace")); r.code != 1 || !strings.Contains(r.stderr, "flight-recorder") {
		t.Errorf("without a recorder: %d %s", r.code, r.stderr)
	}

	c.kill("b")
	c.wait("the loss of b is told", settleMax, func() error {
		text, _ := os.ReadFile(told)
		if !strings.Contains(string(text), "node b: cannot be reached") {
			return fmt.Errorf("told so far: %s", text)
		}
		return nil
	})
	before, err := c.events("a")
	if err != nil || len(before) == 0 {
		t.Fatalf("%d events, %v", len(before), err)
	}
	c.stop("a")
	c.start("a")
	after, err := c.events("a")
	if err != nil || len(after) <= len(before) {
		t.Fatalf("after a restart there are %d events of %d, %v", len(after), len(before), err)
	}
	for i, e := range before {
		if after[i] != e {
			t.Fatalf("event %d was %+v and is %+v", i, e, after[i])
		}
	}
}

func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	client.Timeout = 30 * time.Second
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}
