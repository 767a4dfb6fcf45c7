package address

import (
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The frames as RFC 826, 5227 and 4861 have them.
func TestFrames(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	got := hex.EncodeToString(arpFrame(mac, netip.MustParseAddr("192.0.2.10"), arpReply))
	want := "ffffffffffff" + "020000000001" + "0806" + "0001" + "0800" + "06" + "04" + "0002" + "020000000001" + "c000020a" + "ffffffffffff" + "c000020a"
	if got != want {
		t.Errorf("ARP:\n%s\n%s", got, want)
	}
	f := advertisement(mac, netip.MustParseAddr("2001:db8::10"))
	got = hex.EncodeToString(f)
	want = "333300000001" + "020000000001" + "86dd" + "60000000" + "0020" + "3a" + "ff" +
		"20010db8000000000000000000000010" + "ff020000000000000000000000000001" +
		"88" + "00" + "f90c" + "20000000" + "20010db8000000000000000000000010" + "0201" + "020000000001"
	if got != want {
		t.Errorf("neighbour advertisement:\n%s\n%s", got, want)
	}
	pseudo := append(append([]byte(nil), f[22:54]...), 0, 0, 0, advertisementBytes, 0, 0, 0, icmp6)
	if sum := checksum(append(pseudo, f[54:]...)); sum != 0 {
		t.Errorf("a receiver finds the checksum wrong: %#x", sum)
	}
}

// inNamespace runs the test's goroutine in a network namespace of its own, with an interface "veth".
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocks: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"link add veth type veth peer name other", "link set veth up", "link set other up"} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
}

// The kernel has the address for as long as it is renewed; taken away it is gone; both can be done again. What is configured for ever
// is left alone.
func TestAddAndRemove(t *testing.T) {
	inNamespace(t)
	shown := func() string {
		out, err := exec.Command("ip", "address", "show", "dev", "veth").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	for _, text := range []string{"192.0.2.10/24", "2001:db8::10/64"} {
		a := Address{netip.MustParsePrefix(text), "veth"}
		for _, seconds := range []uint32{600, 900} {
			if err := a.add(seconds); err != nil {
				t.Fatal(err)
			}
		}
		if got := shown(); !strings.Contains(got, text) || !strings.Contains(got, "valid_lft 900sec") && !strings.Contains(got, "valid_lft 899sec") || strings.Contains(got, "tentative "+text) {
			t.Errorf("after it was added: %s", got)
		}
		if err := a.announce(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := a.remove(); err != nil {
				t.Error(err)
			}
		}
		if got := shown(); strings.Contains(got, text) {
			t.Errorf("after it was removed: %s", got)
		}
		if out, err := exec.Command("ip", "address", "add", text, "dev", "veth", "nodad").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := a.add(600); !errors.Is(err, ErrForeign) {
			t.Errorf("one that somebody configured: %v", err)
		}
		if err := a.remove(); err != nil || !strings.Contains(shown(), text) {
			t.Errorf("one that somebody configured was removed: %v", err)
		}
	}
	nowhere := Address{netip.MustParsePrefix("192.0.2.11/24"), "nowhere"}
	if err := nowhere.add(600); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("without the interface: %v", err)
	}
}
