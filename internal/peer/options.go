// Package peer has the connections between servers: one TCP port, TLS 1.3 with certificates on both sides, the hello, the
// streams of frames with heartbeats, and the control requests. It knows frames and buffers; of volumes it knows nothing.
//
// What travels is in docs/formats/stream.md.
package peer

import (
	"time"

	"keelson/internal/wire"
)

// Options are the limits of connections. The zero value of each is its default.
type Options struct {
	HeartbeatEvery   time.Duration // an idle side says that it lives so often (1 s)
	DeadAfter        time.Duration // a peer from which nothing comes for so long is dead (5 s)
	HandshakeTimeout time.Duration // for TLS and the dialing side's hello (5 s)
	ReplyTimeout     time.Duration // for the answer to the hello: the target ends its earlier session first (30 s)
	HandshakesMax    int           // connections whose handshake is not done; one more, and the oldest is cut (64)
	QueueBytesMax    int64         // more bytes queued on one stream end it (1 GiB); callers hold back long before
	Encryption       string        // wire.EncryptionOn (the default) or Off, for hellos and replies that do not say
	SocketBytes      int           // of the kernel's buffers, each way; 0: the kernel's own choice
	Network          Network       // where connections come from; nil: the machine's TCP
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.HeartbeatEvery, time.Second)
	set(&o.DeadAfter, 5*time.Second)
	set(&o.HandshakeTimeout, 5*time.Second)
	set(&o.ReplyTimeout, 30*time.Second)
	if o.HandshakesMax <= 0 {
		o.HandshakesMax = 64
	}
	if o.QueueBytesMax <= 0 {
		o.QueueBytesMax = 1 << 30
	}
	if o.Network == nil {
		o.Network = tcpNetwork{}
	}
	if o.Encryption == "" {
		o.Encryption = wire.EncryptionOn
	}
	return o
}
