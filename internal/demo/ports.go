package demo

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// Ports are chosen below those that the kernel gives to outgoing connections: while an agent is down, its port must not
// become the local port of somebody's connection, not even of a peer that dials that very port.
const (
	portMin     = 15000 // below are those of known services
	portTries   = 200
	portsNeeded = 1000 // fewer are no choice
)

// listenFree finds a free port on 127.0.0.1.
func listenFree() (net.Listener, error) {
	below := ephemeralMin()
	if below-portMin < portsNeeded {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	var last error
	for range portTries {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", portMin+rand.IntN(below-portMin)))
		if err == nil {
			return l, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no free port on 127.0.0.1 in %d tries: %w", portTries, last)
}

// ephemeralMin is the first port that the kernel gives to outgoing connections; 0 if that is not known.
func ephemeralMin() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0
	}
	low := 0
	if _, err := fmt.Sscan(string(text), &low); err != nil {
		return 0
	}
	return low
}
