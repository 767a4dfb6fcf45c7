package web

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Limits of sessions.
const (
	sessionsMax      = 512            // of one agent; the one that was used longest ago goes first
	sessionIdleMax   = 12 * time.Hour // not used for so long: over
	sessionAgeMax    = 7 * 24 * time.Hour
	sessionFileBytes = 1 << 20
	touchEvery       = time.Minute // how fine the time of the last use is kept
	linkAgeMax       = 15 * time.Minute
	linksMax         = 16
)

// linkUser is who comes in by a one-time link.
const linkUser = "first login"

// session is one login. The cookie has a secret of 256 bits, this its SHA-256: who reads the file gets in nowhere.
type session struct {
	User  string    `json:"user"`
	Epoch string    `json:"epoch"` // of the user when they logged in
	Link  bool      `json:"link,omitempty"`
	Began time.Time `json:"began"`
	Used  time.Time `json:"used"`
}

// sessions are all logins at this agent. They outlive its restart in a file; docs/formats/sessions.md.
type sessions struct {
	path string // "": in memory only
	now  func() time.Time

	mu    sync.Mutex
	byKey map[string]session   // by hash of the secret
	links map[string]time.Time // end by hash of the token; in memory only
}

// sessionFile is the content of the file.
type sessionFile struct {
	Version  int                `json:"version"`
	Sessions map[string]session `json:"sessions"`
}

const sessionVersion = 1

// openSessions reads the file. One that cannot be read is worth less than a login: everybody has to log in again.
func openSessions(path string, now func() time.Time) (*sessions, error) {
	s := &sessions{path: path, now: now, byKey: map[string]session{}, links: map[string]time.Time{}}
	if path == "" {
		return s, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() > sessionFileBytes {
		return s, errors.Join(err, fmt.Errorf("%s: longer than %d bytes", path, sessionFileBytes))
	}
	data := make([]byte, info.Size())
	if _, err := f.ReadAt(data, 0); err != nil {
		return s, err
	}
	byKey, err := decodeSessions(data)
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	s.byKey = byKey
	return s, nil
}

// decodeSessions reads the content of the file.
func decodeSessions(data []byte) (map[string]session, error) {
	var file sessionFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	if file.Version != sessionVersion {
		return nil, fmt.Errorf("version %d, and this program knows %d", file.Version, sessionVersion)
	}
	out := map[string]session{}
	for key, one := range file.Sessions {
		if raw, err := hex.DecodeString(key); err != nil || len(raw) != sha256.Size || hex.EncodeToString(raw) != key {
			return nil, fmt.Errorf("%.80q is no session's hash", key)
		}
		if len(out) >= sessionsMax {
			return nil, fmt.Errorf("more than %d sessions", sessionsMax)
		}
		out[key] = one
	}
	return out, nil
}

func encodeSessions(byKey map[string]session) ([]byte, error) {
	data, err := json.MarshalIndent(sessionFile{sessionVersion, byKey}, "", "  ")
	return append(data, '\n'), err
}

// save writes the file as a whole. mu is held.
func (s *sessions) save() error {
	if s.path == "" {
		return nil
	}
	data, err := encodeSessions(s.byKey)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(s.path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(s.path+".new", s.path)
}

func newSecret() (secret, key string) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	secret = base64.RawURLEncoding.EncodeToString(raw[:])
	return secret, keyOf(secret)
}

func keyOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// begin makes a session and returns the secret for its cookie.
func (s *sessions) begin(u User, link bool) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now().UTC()
	s.expire(now)
	for len(s.byKey) >= sessionsMax {
		oldest := ""
		for key, one := range s.byKey {
			if oldest == "" || one.Used.Before(s.byKey[oldest].Used) {
				oldest = key
			}
		}
		delete(s.byKey, oldest)
	}
	secret, key := newSecret()
	s.byKey[key] = session{User: u.Name, Epoch: u.Epoch, Link: link, Began: now, Used: now}
	return secret, s.save()
}

// find returns the session of that secret. A time of use that is not saved costs a login after a restart at worst.
func (s *sessions) find(secret string) (session, bool) {
	if secret == "" {
		return session{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(secret)
	one, ok := s.byKey[key]
	now := s.now().UTC()
	if !ok || !one.alive(now) {
		return session{}, false
	}
	if now.Sub(one.Used) > touchEvery {
		one.Used = now
		s.byKey[key] = one
		_ = s.save()
	}
	return one, true
}

func (x session) alive(now time.Time) bool {
	return now.Sub(x.Used) < sessionIdleMax && now.Sub(x.Began) < sessionAgeMax
}

// end ends the session of that secret.
func (s *sessions) end(secret string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byKey, keyOf(secret))
	return s.save()
}

// expire forgets what is over. mu is held.
func (s *sessions) expire(now time.Time) {
	for key, one := range s.byKey {
		if !one.alive(now) {
			delete(s.byKey, key)
		}
	}
	for key, end := range s.links {
		if !now.Before(end) {
			delete(s.links, key)
		}
	}
}

// newLink makes a one-time token.
func (s *sessions) newLink() (token string, end time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now().UTC()
	s.expire(now)
	if len(s.links) >= linksMax {
		return "", end, fmt.Errorf("%d links that nobody used yet are valid", len(s.links))
	}
	token, key := newSecret()
	end = now.Add(linkAgeMax)
	s.links[key] = end
	return token, end, nil
}

// useLink reports whether the token is good; it is not any more after that.
func (s *sessions) useLink(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(token)
	end, ok := s.links[key]
	delete(s.links, key)
	return ok && s.now().Before(end)
}
