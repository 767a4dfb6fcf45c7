package nbd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
)

// BenchmarkFio measures the server beside nbdkit with the same client, in turns A B A B. Metrics: requests a second and the median and
// 99th percentile of latency. Run it with -benchtime 1x; KEELSON_BENCH_SECONDS (default 2) is the length of one run.
func BenchmarkFio(b *testing.B) {
	seconds := os.Getenv("KEELSON_BENCH_SECONDS")
	if seconds == "" {
		seconds = "2"
	}
	jobs := []struct {
		name string
		args []string
	}{
		{"randread-4k-qd1", []string{"--rw=randread", "--bs=4k", "--iodepth=1"}},
		{"randread-4k-qd32", []string{"--rw=randread", "--bs=4k", "--iodepth=32"}},
		{"randwrite-4k-qd1", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}},
		{"randwrite-4k-qd32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}},
		{"write-1m-qd8", []string{"--rw=write", "--bs=1m", "--iodepth=8"}},
		{"read-1m-qd8", []string{"--rw=read", "--bs=1m", "--iodepth=8"}},
	}
	const size = 256 << 20
	dir := shmDir(b)
	file, err := blocktest.NewFile(filepath.Join(dir, "ours"), size)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	uris := map[string]string{
		"ours-mem":    benchServer(b, dir, "mem", blocktest.NewMem(size)),
		"ours-file":   benchServer(b, dir, "file", file),
		"nbdkit-mem":  nbdkit(b, dir, "memory", fmt.Sprint(size)),
		"nbdkit-file": nbdkit(b, dir, "file", truncated(b, dir, size)),
	}
	for _, uri := range uris {
		fio(b, uri, "--rw=write", "--bs=1m", "--iodepth=8", "--size=256m")
	}
	for _, job := range jobs {
		for turn := 1; turn <= 2; turn++ {
			for _, who := range []string{"ours-mem", "nbdkit-mem", "ours-file", "nbdkit-file"} {
				b.Run(fmt.Sprintf("%s/%s/%d", job.name, who, turn), func(b *testing.B) {
					for range b.N {
						args := append([]string{"--size=256m", "--time_based", "--runtime=" + seconds}, job.args...)
						r := fio(b, uris[who], args...)
						b.ReportMetric(0, "ns/op")
						b.ReportMetric(r.iops, "iops")
						b.ReportMetric(r.p50, "p50-us")
						b.ReportMetric(r.p99, "p99-us")
					}
				})
			}
		}
	}
}

type fioResult struct{ iops, p50, p99 float64 }

// fio runs one job and returns what it measured, of reads and writes together.
func fio(tb testing.TB, uri string, args ...string) fioResult {
	tb.Helper()
	args = append([]string{"--name=j", "--ioengine=nbd", "--uri=" + uri, "--output-format=json", "--percentile_list=50:99"}, args...)
	out, err := tool(tb, "fio", args...).Output()
	if err != nil {
		tb.Fatalf("fio %q: %v\n%s", args, err, out)
	}
	out = out[max(0, bytes.IndexByte(out, '{')):] // its engine prints a line of its own first
	type side struct {
		IOPS float64 `json:"iops"`
		Clat struct {
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var report struct {
		Jobs []struct{ Read, Write side }
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) == 0 {
		tb.Fatalf("fio's report: %v\n%s", err, out)
	}
	r := report.Jobs[0].Read
	if report.Jobs[0].Write.IOPS > 0 {
		r = report.Jobs[0].Write
	}
	return fioResult{r.IOPS, r.Clat.Percentile["50.000000"] / 1000, r.Clat.Percentile["99.000000"] / 1000}
}

func shmDir(tb testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "nbd-bench")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func truncated(tb testing.TB, dir string, size int64) string {
	path := filepath.Join(dir, "theirs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		tb.Fatal(err)
	}
	return path
}

func benchServer(tb testing.TB, dir, name string, dev block.Device) string {
	path := filepath.Join(dir, name+".sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	s := nbd.NewServer(nbd.Options{})
	if err := s.AddExport(name, dev, nbd.ExportOptions{}); err != nil {
		tb.Fatal(err)
	}
	go s.Serve(l)
	tb.Cleanup(func() { s.Close() })
	return "nbd+unix:///" + name + "?socket=" + path
}

// nbdkit starts the peer, with a plugin and its parameter.
func nbdkit(tb testing.TB, dir, plugin, arg string) string {
	path := filepath.Join(dir, "nbdkit-"+plugin+".sock")
	pid := path + ".pid"
	cmd := tool(tb, "nbdkit", "-f", "-U", path, "-P", pid, "--threads=4", plugin, arg)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	waitFor(tb, "nbdkit's pid file", func() bool { _, err := os.Stat(pid); return err == nil })
	return "nbd+unix:///?socket=" + path
}
