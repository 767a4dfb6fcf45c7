package attach

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"keelson/internal/vfs"
)

// WishFormat is the version of the file's format (docs/formats/device.md).
const WishFormat = 1

// wishBytesMax is the longest file that is read.
const wishBytesMax = 64 << 10

// Wish is what an administrator wants of this server, whenever it is the volume's source.
type Wish struct {
	Attach string `json:"attach"` // None, or how: Auto, Loop, NBD
}

// Values of Wish.Attach, and the kinds of devices.
const (
	None = ""
	Auto = "auto"
	Loop = "loop"
	NBD  = "nbd"
)

// Kinds are the values of Wish.Attach that wish for a device. ublk follows.
var Kinds = []string{Auto, Loop, NBD}

// wishFile is the file's content.
type wishFile struct {
	Format int `json:"format"`
	Wish
}

// EncodeWish is the content of the file.
func EncodeWish(w Wish) []byte {
	text, err := json.MarshalIndent(wishFile{WishFormat, w}, "", "  ")
	if err != nil {
		panic("attach: a wish cannot be encoded: " + err.Error()) // it has only strings
	}
	return append(text, '\n')
}

// DecodeWish reads the file's content. A newer format is refused.
func DecodeWish(text []byte) (Wish, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return Wish{}, err
	}
	if version.Format != WishFormat {
		return Wish{}, fmt.Errorf("it has format %d, this version knows %d", version.Format, WishFormat)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var f wishFile
	if err := d.Decode(&f); err != nil {
		return Wish{}, err
	}
	if d.More() {
		return Wish{}, errors.New("there is more than one value in it")
	}
	if f.Attach != None && !slices.Contains(Kinds, f.Attach) {
		return Wish{}, fmt.Errorf("%.40q is no kind of device", f.Attach)
	}
	return f.Wish, nil
}

// loadWish reads the file; without one nothing is wished.
func loadWish(files vfs.FS, path string) (Wish, error) {
	f, err := files.Open(path, vfs.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return Wish{}, nil
	}
	if err != nil {
		return Wish{}, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return Wish{}, err
	}
	if size > wishBytesMax {
		return Wish{}, fmt.Errorf("%s: longer than %d bytes", path, wishBytesMax)
	}
	text := make([]byte, size)
	if _, err := f.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		return Wish{}, err
	}
	w, err := DecodeWish(text)
	if err != nil {
		return w, fmt.Errorf("%s: %w; remove it, and attach the volume again", path, err)
	}
	return w, nil
}

// newSuffix is that of a file that is not complete yet.
const newSuffix = ".new"

// saveWish makes the wish durable; a crash leaves the old one or the new one.
func saveWish(files vfs.FS, path string, w Wish) error {
	f, err := files.Open(path+newSuffix, vfs.Create)
	if err != nil {
		return err
	}
	text := EncodeWish(w)
	err = f.Truncate(int64(len(text)))
	if err == nil {
		_, err = f.WriteAt(text, 0)
	}
	if err == nil {
		err = f.Datasync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := files.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return files.SyncDir(filepath.Dir(path))
}
