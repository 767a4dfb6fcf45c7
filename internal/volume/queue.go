package volume

import "keelson/internal/block"

// queue is a list of requests, linked through Request.Next.
type queue struct {
	head, tail *block.Request
	n          int
}

func (q *queue) push(r *block.Request) {
	r.Next = nil
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.Next = r
	}
	q.tail = r
	q.n++
}

func (q *queue) pop() *block.Request {
	r := q.head
	if r == nil {
		return nil
	}
	q.head, r.Next = r.Next, nil
	if q.head == nil {
		q.tail = nil
	}
	q.n--
	return r
}

// anyLocal reports that the local part of a request is over.
func (q *queue) anyLocal() bool {
	for r := q.head; r != nil; r = r.Next {
		if r.Local {
			return true
		}
	}
	return false
}

// take empties the queue.
func (q *queue) take() queue {
	all := *q
	*q = queue{}
	return all
}

// remove takes out every request for which gone holds and appends it to out.
func (q *queue) remove(out *queue, gone func(*block.Request) bool) {
	rest := q.take()
	for r := rest.pop(); r != nil; r = rest.pop() {
		if gone(r) {
			out.push(r)
		} else {
			q.push(r)
		}
	}
}

// complete hands the requests back and flushes each of their completers once.
func (q *queue) complete() {
	if q.head == nil {
		return
	}
	var few [8]block.Completer
	touched := few[:0]
	for r := q.pop(); r != nil; r = q.pop() {
		by, known := r.By, false
		for _, c := range touched {
			known = known || c == by
		}
		if !known {
			touched = append(touched, by)
		}
		by.Complete(r)
	}
	for _, c := range touched {
		c.Flush()
	}
}
