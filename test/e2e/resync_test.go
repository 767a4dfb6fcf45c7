package e2e

import "testing"

// What a partial resync sends is what changed: by the product's own counter and by the bytes that it put on the wire.
func TestPartialResyncSendsOnlyWhatChanged(t *testing.T) {
	c := demo(t, "256MiB")
	c.writeAt("a", 0, 64*mib, 1)
	v, err := c.volume("a")
	if err != nil {
		t.Fatal(err)
	}
	region := v.RegionBytes

	c.run("a", "mirror", "pause", "data", "--target", "c")
	const changed = 10
	for i := range int64(changed) { // one block in each of ten regions, far apart
		c.writeAt("a", i*6*mib, blockBytes, uint64(100+i))
	}
	uri, err := c.address("a")
	if err != nil {
		t.Fatal(err)
	}
	d, err := dial(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Zero(63*mib, region); err != nil { // changed, but nothing to send as data
		t.Fatal(err)
	}

	c.run("a", "mirror", "continue", "data", "--target", "c")
	c.waitMirroring("a", "c")
	m, err := c.mirror("a", "c")
	if err != nil {
		t.Fatal(err)
	}
	r := m.Resync
	if r == nil || r.Kind != "partial" || r.State != "finished" {
		t.Fatalf("resync: %+v", r)
	}
	if r.BytesSent != changed*region {
		t.Errorf("%d bytes were sent as data; %d regions of %d changed", r.BytesSent, changed, region)
	}
	if r.BytesSkipped < region {
		t.Errorf("%d bytes were skipped; the zeroed region has %d", r.BytesSkipped, region)
	}
	// What is not data: digests of 8 pages (a page has 512 regions), the versions of those that differ, frame headers, the record.
	if over := m.BytesOnWire - r.BytesSent; over < 0 || over > 128<<10 {
		t.Errorf("%d bytes on the wire for %d bytes of data", m.BytesOnWire, r.BytesSent)
	}
	t.Logf("%d regions changed: %d bytes of data, %d on the wire, %d skipped, rule %s", changed+1, r.BytesSent, m.BytesOnWire, r.BytesSkipped, r.Rule)

	// A reconnect at which nothing differs replaces nothing and sends nearly nothing.
	c.run("a", "mirror", "pause", "data", "--target", "c")
	c.run("a", "mirror", "continue", "data", "--target", "c")
	c.waitMirroring("a", "c")
	again, err := c.mirror("a", "c")
	if err != nil {
		t.Fatal(err)
	}
	if again.Resync == nil || !again.Resync.Started.Equal(r.Started) {
		t.Errorf("a reconnect at which nothing differed shows the resync %+v", again.Resync)
	}
	if again.BytesOnWire > 128<<10 {
		t.Errorf("it put %d bytes on the wire", again.BytesOnWire)
	}
	c.same()
}

// A broken mirror, too, needs only what changed.
func TestBrokenMirrorNeedsNoFullCopy(t *testing.T) {
	c := demo(t, "128MiB")
	c.writeAt("a", 0, 32*mib, 1)
	c.run("a", "mirror", "break", "data", "--target", "c")
	c.waitState("a", "c", "Broken")
	c.writeAt("a", 40*mib, 2*mib, 2)
	c.refused("", "a", "switchover", "data", "--to", "c", "--yes")
	c.run("a", "mirror", "continue", "data", "--target", "c")
	c.waitMirroring("a", "b", "c")
	m, err := c.mirror("a", "c")
	if err != nil {
		t.Fatal(err)
	}
	if r := m.Resync; r == nil || r.Kind != "partial" || r.BytesSent > 3*mib {
		t.Errorf("resync: %+v", r)
	}
	c.same()

	// A full copy happens when it is asked for by name, and only then.
	c.run("a", "mirror", "resync", "data", "--target", "c")
	c.wait("a finished full resync", settleMax, func() error {
		m, err := c.mirror("a", "c")
		return wantResync(m, err, "full")
	})
	c.waitMirroring("a", "b", "c")
	c.same()
}

// The source's process dies under load: at its return only what was in use is compared, and only what differs is sent.
func TestSourceKilledUnderLoad(t *testing.T) {
	c := demo(t, "512MiB")
	c.writeAt("a", 256*mib, 128*mib, 1)
	f := follow(c, 0, 32*mib, 1)
	f.waitAnswers(2000)
	for range 2 {
		c.kill("a")
		c.start("a")
		f.waitAnswers(500)
		if source := c.waitOneSource(); source != "a" {
			t.Fatalf("the source is %s", source)
		}
	}
	f.stop()
	f.verify()
	for _, target := range []string{"b", "c"} {
		m, err := c.mirror("a", target)
		if err != nil {
			t.Fatal(err)
		}
		if r := m.Resync; r == nil || (r.Kind != "partial" && r.Kind != "none") || r.BytesSent > 40*mib {
			t.Errorf("resync a->%s after the kill: %+v", target, r)
		}
	}
	c.noResyncOfKind("full")
	c.same()
}
