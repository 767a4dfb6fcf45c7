package api

import (
	"context"
	"slices"
	"time"
)

// AdmittedClient is a program or machine that may use volumes by NBD over TCP with TLS ([nbd] tls).
type AdmittedClient struct {
	Name    string    `json:"name"`
	Key     string    `json:"key"` // identity of its certificate: SHA-256 of its public key
	Changed time.Time `json:"changed"`
	By      string    `json:"by"` // the server on which it was admitted
}

// AdmittedClients are all of them, by name.
type AdmittedClients struct {
	Clients []AdmittedClient `json:"clients"`
}

// ClientChange admits a client, or removes one, on every member.
type ClientChange struct {
	Action  string `json:"action"`            // add | remove
	Name    string `json:"name"`              //
	Request []byte `json:"request,omitempty"` // add: certificate request (PKCS #10, DER) of the client's key, ECDSA on P-256
}

const requestBytesMax = 16 << 10

// Check finds what is wrong in the request without knowing anything else.
func (r ClientChange) Check() error {
	object := "client " + r.Name
	switch {
	case !slices.Contains([]string{"add", "remove"}, r.Action):
		return Errorf(Usage, object, "action %q is neither add nor remove", r.Action)
	case r.Name == "":
		return Errorf(Usage, "", "no client is named")
	case (r.Action == "add") != (len(r.Request) > 0):
		return Errorf(Usage, object, "add needs a certificate request, remove takes none")
	case len(r.Request) > requestBytesMax:
		return Errorf(Usage, object, "the certificate request is longer than %d bytes", requestBytesMax)
	}
	return nil
}

// About names what is changed.
func (r ClientChange) About() string { return "client " + r.Name }

// ClientCard is what an admitted client needs besides its key.
type ClientCard struct {
	Name        string `json:"name"`
	Certificate string `json:"certificate"` // PEM
	CA          string `json:"ca"`          // PEM, what servers are known by
}

// Clients implements Service.
func (c *Client) Clients(ctx context.Context) (*AdmittedClients, error) {
	return call[AdmittedClients](ctx, c, "Clients", Nothing{})
}

// ChangeClient implements Service.
func (c *Client) ChangeClient(ctx context.Context, r ClientChange) (*ClientCard, error) {
	return call[ClientCard](ctx, c, "ChangeClient", r)
}
