package cluster

// Clients are the programs and machines that may use volumes by NBD over TCP, by name.
func (s *Store) Clients() []Client { return live(s.current().Clients) }

// ClientKey is the client that has the key of that identity; false if none has, or none any more.
func (s *Store) ClientKey(key string) (Client, bool) {
	for _, c := range s.current().Clients {
		if c.Key == key && !c.Removed {
			return c, true
		}
	}
	return Client{}, false
}

// SetClient admits a client, or gives one another key. The stamp given is of no account.
func (s *Store) SetClient(c Client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var was Client
	if at, ok := find(s.doc.Clients, c.Name); ok {
		was = s.doc.Clients[at]
	}
	c.Stamp = was.Stamp.next(s.self, false, s.now())
	return s.replace(&Document{Members: s.doc.Members, Users: s.doc.Users, Clients: put(s.doc.Clients, c)})
}

// RemoveClient shuts a client out; one that there is not is removed already.
func (s *Store) RemoveClient(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := find(s.doc.Clients, name)
	if !ok || s.doc.Clients[at].Removed {
		return nil
	}
	c := s.doc.Clients[at]
	c.Stamp = c.Stamp.next(s.self, true, s.now())
	return s.replace(&Document{Members: s.doc.Members, Users: s.doc.Users, Clients: put(s.doc.Clients, c)})
}
