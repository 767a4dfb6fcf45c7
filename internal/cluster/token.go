package cluster

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"time"
)

// Token is what an invitation gives to a server that is to join: the secret that admits it once, and how to know whom to
// give it to. Its text is docs/formats/token.md.
type Token struct {
	Secret  [16]byte
	CA      [sha256.Size]byte // SHA-256 of the CA's certificate
	Key     [sha256.Size]byte // SHA-256 of the public key of the server that made it: only there it is good
	Ends    time.Time         // to the second
	Address string            // of that server
	Name    string            // that the new server has to have; "": it says its own
}

const (
	tokenPrefix   = "keelson-join-"
	tokenVersion  = 1
	tokenBytesMax = 1 << 10 // of its text
)

var errToken = errors.New("this is no token of keelson node invite, or not all of it")

// String is the token for people to carry.
func (t *Token) String() string {
	b := []byte{tokenVersion}
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Ends.Unix()))
	b = append(append(append(b, t.Secret[:]...), t.CA[:]...), t.Key[:]...)
	for _, text := range []string{t.Address, t.Name} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
		b = append(b, text...)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads what String wrote.
func ParseToken(text string) (*Token, error) {
	code, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(text) > tokenBytesMax {
		return nil, errToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if err != nil || len(b) < 5 {
		return nil, errToken
	}
	body := b[:len(b)-4]
	if binary.LittleEndian.Uint32(b[len(b)-4:]) != crc32.Checksum(body, castagnoli) {
		return nil, errToken
	}
	if body[0] != tokenVersion {
		return nil, fmt.Errorf("the token's format is %d, and this program knows %d: use the version that made it", body[0], tokenVersion)
	}
	t := new(Token)
	fixed := 1 + 8 + len(t.Secret) + len(t.CA) + len(t.Key)
	if len(body) < fixed {
		return nil, errToken
	}
	seconds := binary.LittleEndian.Uint64(body[1:])
	if seconds > math.MaxInt32<<8 { // far beyond the years that are written with four digits
		return nil, errToken
	}
	t.Ends = time.Unix(int64(seconds), 0).UTC()
	rest := body[9:]
	rest = rest[copy(t.Secret[:], rest):]
	rest = rest[copy(t.CA[:], rest):]
	rest = rest[copy(t.Key[:], rest):]
	for _, text := range []*string{&t.Address, &t.Name} {
		if len(rest) < 2 || len(rest) < 2+int(binary.LittleEndian.Uint16(rest)) {
			return nil, errToken
		}
		n := int(binary.LittleEndian.Uint16(rest))
		*text, rest = string(rest[2:2+n]), rest[2+n:]
	}
	if len(rest) > 0 || CheckAddress(t.Address) != nil || t.Name != "" && checkNodeName(t.Name) != nil {
		return nil, errToken
	}
	return t, nil
}
