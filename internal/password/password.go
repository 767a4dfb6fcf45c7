// Package password keeps passwords of people as hashes: argon2id (RFC 9106), written in the PHC string format, with the
// parameters in the hash, so that they can be raised later without anybody's password being lost.
package password

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// Parameters of new hashes: what OWASP's password storage advice names for argon2id (19 MiB, two passes, one lane).
const (
	memoryKiB = 19 << 10
	passes    = 2
	lanes     = 1
	saltBytes = 16
	hashBytes = 32
)

// Limits of what Check computes, whatever a hash asks for, and of passwords.
const (
	memoryMaxKiB  = 256 << 10
	passesMax     = 16
	lanesMax      = 8
	bytesMin      = 10
	bytesMax      = 256
	HashBytesMax  = 256 // of a hash as text
	computingsMax = 2   // at once: memory is bounded by it
)

// computing has a token for each hash that is being computed.
var computing = make(chan struct{}, computingsMax)

// ErrHash is a hash that this program cannot read, or that asks for more than it is ready to do.
var ErrHash = errors.New("not a password hash of this program")

// Acceptable returns nil for a password that may be set.
func Acceptable(password string) error {
	switch {
	case !utf8.ValidString(password):
		return errors.New("the password is not UTF-8 text")
	case len(password) < bytesMin:
		return fmt.Errorf("the password is shorter than %d characters", bytesMin)
	case len(password) > bytesMax:
		return fmt.Errorf("the password is longer than %d bytes", bytesMax)
	case strings.ContainsAny(password, "\x00\r\n"):
		return errors.New("the password has a line end or a zero byte in it")
	}
	return nil
}

// Hash makes the hash of a password, with a random salt.
func Hash(password string) (string, error) {
	if err := Acceptable(password); err != nil {
		return "", err
	}
	p := parameters{memoryKiB, passes, lanes, make([]byte, saltBytes), nil}
	rand.Read(p.salt) // never fails: see crypto/rand
	p.sum = p.compute(password, hashBytes)
	return p.String(), nil
}

// Check reports whether the password is the one of the hash. renew says that the hash should be made anew with Hash,
// because its parameters are weaker than today's. Computing is bounded: callers wait for each other.
func Check(hash, password string) (ok, renew bool, err error) {
	p, err := parse(hash)
	if err != nil {
		return false, false, err
	}
	if len(password) > bytesMax {
		return false, false, nil
	}
	ok = subtle.ConstantTimeCompare(p.compute(password, len(p.sum)), p.sum) == 1
	weak := p.memory < memoryKiB || p.passes < passes || len(p.sum) < hashBytes || len(p.salt) < saltBytes
	return ok, ok && weak, nil
}

// Valid returns nil if Check can read the hash.
func Valid(hash string) error {
	_, err := parse(hash)
	return err
}

// decoy is a hash of no password.
var decoy = parameters{memoryKiB, passes, lanes, make([]byte, saltBytes), make([]byte, hashBytes)}

// Waste takes as long as Check. A login calls it for a user that does not exist, so that its time does not tell.
func Waste(password string) {
	decoy.compute(password[:min(len(password), bytesMax)], hashBytes)
}

type parameters struct {
	memory uint32 // KiB
	passes uint32
	lanes  uint8
	salt   []byte
	sum    []byte
}

func (p *parameters) compute(password string, n int) []byte {
	computing <- struct{}{}
	defer func() { <-computing }()
	return argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.lanes, uint32(n))
}

var encoding = base64.RawStdEncoding.Strict()

// String is the PHC form.
func (p *parameters) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.lanes,
		encoding.EncodeToString(p.salt), encoding.EncodeToString(p.sum))
}

// parse reads the PHC form; what it takes is exactly what String writes.
func parse(text string) (*parameters, error) {
	part := strings.Split(text, "$")
	if len(text) > HashBytesMax || len(part) != 6 {
		return nil, ErrHash
	}
	p := new(parameters)
	if _, err := fmt.Sscanf(part[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.lanes); err != nil {
		return nil, ErrHash
	}
	var err error
	if p.salt, err = encoding.DecodeString(part[4]); err != nil {
		return nil, ErrHash
	}
	if p.sum, err = encoding.DecodeString(part[5]); err != nil {
		return nil, ErrHash
	}
	sane := p.lanes >= 1 && p.lanes <= lanesMax && p.passes >= 1 && p.passes <= passesMax &&
		p.memory >= 8*uint32(p.lanes) && p.memory <= memoryMaxKiB && len(p.salt) >= 8 && len(p.sum) >= 16
	if !sane || p.String() != text {
		return nil, ErrHash
	}
	return p, nil
}
