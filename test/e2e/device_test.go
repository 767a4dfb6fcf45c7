package e2e

import "keelson/internal/frontend/nbd/nbdclient"

// device is an NBD connection to a volume.
type device = *nbdclient.Client

// dial connects to an address of status.
func dial(uri string) (device, error) { return nbdclient.Dial(uri) }
