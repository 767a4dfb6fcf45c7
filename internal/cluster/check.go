package cluster

import (
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"keelson/internal/password"
)

var (
	nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
	userName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._@+-]{0,62}[A-Za-z0-9])?$`)
)

const addressBytesMax = 260 // a DNS name and a port

// CheckUserName returns nil if a user can have that name.
func CheckUserName(name string) error {
	if !userName.MatchString(name) {
		return fmt.Errorf("user name %.70q: use 1 to 64 letters, digits, '.', '_', '@', '+' or '-', with a letter or digit first and last", name)
	}
	return nil
}

// CheckRole returns nil if users have such a role.
func CheckRole(role string) error {
	if !slices.Contains([]string{Administrator, Operator, Viewer}, role) {
		return fmt.Errorf("role %.40q: use %s, %s or %s", role, Administrator, Operator, Viewer)
	}
	return nil
}

func checkNodeName(name string) error {
	if !nodeName.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("server name %.70q: use 1 to 63 of a-z, 0-9, '-', '_' and '.', with a letter or digit first and last", name)
	}
	return nil
}

// CheckAddress returns nil for HOST:PORT by which a server can be reached.
func CheckAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	n, convErr := strconv.ParseUint(port, 10, 16)
	ip := net.ParseIP(host)
	switch {
	case err != nil || convErr != nil || n == 0 || host == "" || len(address) > addressBytesMax || strings.ContainsFunc(address, unprintable):
		return fmt.Errorf("address %.280q: write it as HOST:PORT with a port from 1 to 65535", address)
	case ip != nil && ip.IsUnspecified():
		return fmt.Errorf("address %q cannot be reached from other servers: name the server", address)
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }

// check returns what is wrong with a stamp.
func (s Stamp) check() error {
	if s.Epoch == 0 || s.Epoch > counterMax || s.Counter == 0 || s.Counter > counterMax {
		return fmt.Errorf("epoch %d, counter %d are no stamp", s.Epoch, s.Counter)
	}
	if year := s.Changed.Year(); year < 0 || year > 9999 {
		return fmt.Errorf("the year %d is none", year)
	}
	return checkNodeName(s.By)
}

func (m Member) check() error {
	if err := checkNodeName(m.Name); err != nil {
		return err
	}
	if err := CheckAddress(m.Address); err != nil && m.Admitted == ByInvite { // of the others, configurations have it
		return fmt.Errorf("server %s: %w", m.Name, err)
	}
	if len(m.Address) > addressBytesMax || len(m.Keys) > KeysMax {
		return fmt.Errorf("server %s: its address or list of keys is too long", m.Name)
	}
	for _, key := range m.Keys {
		if !isKey(key) {
			return fmt.Errorf("server %s: %.80q is no identity of a key", m.Name, key)
		}
	}
	if m.Admitted != ByInvite && m.Admitted != ByConfig {
		return fmt.Errorf("server %s: admitted by %.20q", m.Name, m.Admitted)
	}
	return m.Stamp.check()
}

func isKey(key string) bool {
	b, err := hex.DecodeString(key)
	return err == nil && len(b) == 32 && strings.ToLower(key) == key
}

func (c Client) check() error {
	if !nodeName.MatchString(c.Name) || strings.Contains(c.Name, "..") {
		return fmt.Errorf("client name %.70q: use 1 to 63 of a-z, 0-9, '-', '_' and '.', with a letter or digit first and last", c.Name)
	}
	if !isKey(c.Key) {
		return fmt.Errorf("client %s: %.80q is no identity of a key", c.Name, c.Key)
	}
	return c.Stamp.check()
}

func (u User) check() error {
	if err := CheckUserName(u.Name); err != nil {
		return err
	}
	if err := CheckRole(u.Role); err != nil {
		return fmt.Errorf("user %s: %w", u.Name, err)
	}
	if u.Hash != "" && password.Valid(u.Hash) != nil {
		return fmt.Errorf("user %s: %w", u.Name, password.ErrHash)
	}
	if u.Logins > counterMax {
		return fmt.Errorf("user %s: logins is %d", u.Name, u.Logins)
	}
	return u.Stamp.check()
}

// check returns what is wrong with a document: nothing may be believed of one that does not pass.
func (d *Document) check() error {
	if len(d.Members) > MembersMax || len(d.Users) > UsersMax || len(d.Clients) > ClientsMax {
		return fmt.Errorf("%d servers, %d users and %d clients: at most %d, %d and %d, removed ones included", len(d.Members), len(d.Users), len(d.Clients), MembersMax, UsersMax, ClientsMax)
	}
	if err := checkList(d.Clients); err != nil {
		return err
	}
	if err := checkList(d.Members); err != nil {
		return err
	}
	return checkList(d.Users)
}

func checkList[E interface {
	entry
	check() error
}](list []E) error {
	for i, e := range list {
		if err := e.check(); err != nil {
			return err
		}
		if i > 0 && list[i-1].key() >= e.key() {
			return fmt.Errorf("%q is not behind %q in its list", e.key(), list[i-1].key())
		}
	}
	return nil
}
