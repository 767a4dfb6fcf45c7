package nbd

// flush sends the queue unless somebody is at it, who will see what was added.
func (o *replies) flush() {
	o.mu.Lock()
	if o.sending || len(o.queue) == 0 {
		o.mu.Unlock()
		return
	}
	o.sending = true
	for range flushRoundsMax {
		o.take()
		o.mu.Unlock()
		whole := o.sendNow()
		if !whole {
			o.wake <- struct{}{} // has room: only the owner of sending puts something in, and the sender took the last one
			return
		}
		o.mu.Lock()
		if o.sentAll() {
			o.mu.Unlock()
			return
		}
	}
	o.mu.Unlock()
	o.wake <- struct{}{}
}

// take makes the queue the one being sent. The caller holds mu and sending; nothing is being sent.
func (o *replies) take() {
	o.now, o.queue = o.queue, o.now[:0]
	o.pos, o.off = 0, 0
}

// sentAll takes back what was sent, and gives sending up if nothing was queued meanwhile. The caller holds mu and sending.
func (o *replies) sentAll() bool {
	o.recycle(o.now)
	o.now, o.pos, o.off = o.now[:0], 0, 0
	if o.dead {
		o.drop()
	}
	if len(o.queue) == 0 {
		o.sending = false
		if o.waiting {
			o.room.Signal()
		}
	}
	return !o.sending
}

// gather makes the next pieces of what is being sent; none: all is sent.
func (o *replies) gather() [][]byte {
	o.pieces = o.pieces[:0]
	off := o.off
	for _, q := range o.now[o.pos:] {
		if len(o.pieces)+2 > iovecsMax {
			break
		}
		if off < q.headN {
			o.pieces = append(o.pieces, q.head[off:q.headN])
		}
		if q.body != nil {
			if b := q.body.Bytes[max(0, off-q.headN):]; len(b) > 0 {
				o.pieces = append(o.pieces, b)
			}
		}
		off = 0
	}
	return o.pieces
}

// sent counts n more bytes as sent.
func (o *replies) sent(n int) {
	n += o.off
	for o.pos < len(o.now) {
		q := o.now[o.pos]
		whole := q.headN
		if q.body != nil {
			whole += len(q.body.Bytes)
		}
		if n < whole {
			break
		}
		n -= whole
		o.pos++
	}
	o.off = n
}

// sendNow sends without waiting and reports whether all that was taken is gone, or will never go. The caller owns sending.
func (o *replies) sendNow() bool {
	for {
		pieces := o.gather()
		if len(pieces) == 0 {
			return true
		}
		n, err := o.c.in.sock.trySend(pieces)
		if err != nil {
			o.fail()
			return true
		}
		o.sent(n)
		if n < length(pieces) {
			return false
		}
	}
}

func length(pieces [][]byte) (n int) {
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// sendLoop is the sender goroutine: it sends what flush could not, with waiting.
func (o *replies) sendLoop() {
	for {
		select {
		case <-o.wake:
			o.sendRest()
		case <-o.quit:
			return
		}
	}
}

// sendRest sends what is being sent and then what is queued, until nothing is left, and gives sending up.
func (o *replies) sendRest() {
	for {
		for {
			pieces := o.gather()
			if len(pieces) == 0 {
				break
			}
			n := length(pieces)
			if err := o.c.in.sock.send(pieces); err != nil {
				o.fail()
				break
			}
			o.sent(n)
		}
		o.mu.Lock()
		if o.sentAll() {
			o.mu.Unlock()
			return
		}
		o.take()
		o.mu.Unlock()
	}
}
