package node

import (
	"encoding/json"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/cluster"
	"keelson/internal/peer"
)

func TestCertificatesAreDue(t *testing.T) {
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	const lifetime = 90 * time.Hour
	for name, test := range map[string]struct {
		from, to time.Time
		want     bool
	}{
		"new":                      {now.Add(-time.Hour), now.Add(lifetime), false},
		"a third and an hour left": {now.Add(-59 * time.Hour), now.Add(31 * time.Hour), false},
		"less than a third left":   {now.Add(-61 * time.Hour), now.Add(29 * time.Hour), true},
		"ended":                    {now.Add(-100 * time.Hour), now.Add(-time.Hour), true},
		"made by a clock ahead":    {now.Add(time.Hour), now.Add(1000 * time.Hour), true},
		"of twenty years":          {now.Add(-time.Hour), now.AddDate(20, 0, 0), false},
	} {
		if got := due(test.from, test.to, now, lifetime); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzJoinRequest(f *testing.F) {
	good, err := json.Marshal(joinRequest{Version: 1, Secret: make([]byte, 16), Name: "d", Address: "10.0.0.4:7401", Request: []byte{1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"secret":"AAAA","name":"../d"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeJoin(data)
		if err != nil {
			if e := api.AsError(err); e.Code != api.Usage && e.Code != api.Refused || e.Message == "" {
				t.Errorf("%+v", e)
			}
			return
		}
		if peer.CheckNodeName(r.Name) != nil || cluster.CheckAddress(r.Address) != nil || len(r.Secret) != 16 {
			t.Errorf("%+v was taken", r)
		}
	})
}
