package node

import (
	"net/netip"
	"time"

	"keelson/internal/address"
	"keelson/internal/api"
	"keelson/internal/vfs"
)

// leaveMax is how long a service address stays for clients of NBD to take their last replies.
const leaveMax = time.Second

// newAddress makes the keeper of the volume's service address; nil if it has none at this server.
func (a *vol) newAddress() *address.Keeper {
	v := a.n.cfg.Volume(a.name)
	prefix, err := netip.ParsePrefix(v.ServiceAddress)
	if err != nil || a.n.out.FS != vfs.OS { // none; or this agent stands on no machine
		return nil
	}
	return address.Open(address.Options{
		Address: address.Address{Prefix: prefix, Interface: v.ServiceInterface}, Log: a.n.log, Changed: a.n.bump,
		Note:   func(level, message, next string) { a.note(level, "volume "+a.name, "", message, next) },
		Coming: func() { a.n.nbd.Return(prefix.Addr()) },
		Going: func() {
			if a.n.cfg.NBD.Address != "" {
				a.n.nbd.Leave(prefix.Addr(), leaveMax)
			}
		},
	})
}

// wantAddress says whether the service address is to be at this server. It never blocks.
func (a *vol) wantAddress(wanted bool) {
	if a.address != nil {
		a.address.Want(wanted)
	}
}

// addressStatus is what status shows of it; nil if there is none.
func (a *vol) addressStatus() *api.ServiceAddress {
	if a.address == nil {
		return nil
	}
	s, v := a.address.Status(), a.n.cfg.Volume(a.name)
	return &api.ServiceAddress{Address: v.ServiceAddress, Interface: v.ServiceInterface, State: s.State, Reason: s.Reason}
}
