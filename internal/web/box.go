package web

import "sync"

// box holds what was loaded last, for one goroutine that loads and one that shows.
type box[T any] struct {
	mu    sync.Mutex
	value T
	err   error
}

func newBox[T any]() *box[T] { return &box[T]{} }

// put keeps a value; with an error the one before stays.
func (b *box[T]) put(value T, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.value = value
	}
	b.err = err
}

func (b *box[T]) get() (T, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.value, b.err
}
