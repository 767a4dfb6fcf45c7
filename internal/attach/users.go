package attach

import (
	"fmt"
	"slices"
	"strings"

	"keelson/internal/blockdev"
)

// InUseError is why a device stays: somebody uses it.
type InUseError struct {
	Device  string
	Holders []blockdev.Holder
}

// Error says who.
func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is %s", e.Device, blockdev.Join(e.Holders))
}

// Users are those who use the device now, nil if there is none.
func (a *Attachment) Users() (*InUseError, error) {
	device := a.shown.Load().Device
	if device == "" {
		return nil, nil
	}
	holders, err := blockdev.Holders(device)
	holders = slices.DeleteFunc(holders, a.claims)
	if err != nil || len(holders) == 0 {
		return nil, err
	}
	return &InUseError{device, holders}, nil
}

// HowToLetGo is what to do so that nobody holds a device any more.
func HowToLetGo(holders []blockdev.Holder) string {
	var todo []string
	for _, h := range holders {
		switch h.Kind {
		case "mount":
			todo = append(todo, "umount "+h.Mount)
		case "process":
			todo = append(todo, fmt.Sprintf("end process %d", h.PID))
		case "swap":
			todo = append(todo, "swapoff")
		default:
			todo = append(todo, "release "+h.Device)
		}
	}
	return strings.Join(todo, ", ")
}
