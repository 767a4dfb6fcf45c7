package preflight

import "slices"

// services is whether clients find a volume, and can verify who serves it, at the same address and name wherever its source is.
func (j *judge) services(servers []Server) {
	for i := range servers {
		s := &servers[i]
		for _, v := range s.Services {
			if !v.TLS {
				continue
			}
			i := about("service-certificate", s.Node, v.Name, "clients of NBD with TLS are shown a certificate that is good for it")
			i.Volume = v.Volume
			j.add(i, warning(v.Err != "", "put the cluster's CA key where [tls] ca-key says, and the agent makes one; or have the certificate of [tls] made with subjectAltName "+v.AltName+" and start the agent again",
				"clients of NBD with TLS cannot verify this server by it: %s", v.Err))
		}
		for _, d := range s.Disks {
			for _, missing := range servicesBesides(d.Volume, s, servers) {
				i := about("service", s.Node, missing.Name, "")
				i.Volume = d.Volume
				j.add(i, warning(true, "give all servers of a volume the same [[volume]] section", "leads to the volume at other servers, and is not configured at this one: as source it would not be found"))
			}
		}
	}
}

// servicesBesides are those of the volume that another server has and this one does not.
func servicesBesides(volume string, s *Server, servers []Server) (missing []Service) {
	for _, other := range servers {
		for _, v := range other.Services {
			same := func(o Service) bool { return o.Volume == v.Volume && o.Name == v.Name }
			if v.Volume == volume && !slices.ContainsFunc(s.Services, same) && !slices.ContainsFunc(missing, same) {
				missing = append(missing, v)
			}
		}
	}
	return missing
}
