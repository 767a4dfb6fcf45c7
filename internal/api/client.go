package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// answerGrace is how much longer than the caller's time limit the client waits, so that the agent can say itself what
// it waits for when that is over.
const answerGrace = 2 * time.Second

// Client is a Service at another place, reached over HTTP. The errors of its methods are *Error; an error of a caller's
// own function is returned as it is.
type Client struct {
	http   *http.Client
	base   string // URL without a path
	target string // what is called, for messages
	start  string // what to do if nobody is there
	via    string
}

var _ Service = (*Client)(nil)

// NewClient makes the client of a Service at base ("https://10.0.0.2:7401"); target is what messages call it
// ("agent b at 10.0.0.2:7401").
func NewClient(c *http.Client, base, target string) *Client {
	return &Client{http: c, base: base, target: target, start: "is that server up, and its agent running?"}
}

// NewSocketClient makes the client of the agent at a unix socket.
func NewSocketClient(path string) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableCompression: true, MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	return &Client{http: &http.Client{Transport: transport}, base: "http://agent", target: "the agent at " + path,
		start: "is it running (keelson agent --config FILE), and is this its socket (--socket, KEELSON_SOCKET)?"}
}

// Via is the same client for calls that the agent of that server passes on.
func (c *Client) Via(node string) *Client {
	via := *c
	via.via = node
	return &via
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status implements Service.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return call[Status](ctx, c, "Status", Nothing{})
}

// Watch implements Service.
func (c *Client) Watch(ctx context.Context, fn func(*Status) error) error {
	_, err := callStream[Status, Nothing](ctx, c, "Watch", Nothing{}, fn)
	return err
}

// Events implements Service.
func (c *Client) Events(ctx context.Context, q EventsQuery, fn func(Event) error) error {
	_, err := callStream[Event, Nothing](ctx, c, "Events", q, func(e *Event) error { return fn(*e) })
	return err
}

// CreateVolume implements Service.
func (c *Client) CreateVolume(ctx context.Context, r CreateVolume) (*VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, "CreateVolume", r)
}

// DeleteVolume implements Service.
func (c *Client) DeleteVolume(ctx context.Context, r DeleteVolume) error {
	_, err := call[Nothing](ctx, c, "DeleteVolume", r)
	return err
}

// SetVolume implements Service.
func (c *Client) SetVolume(ctx context.Context, r VolumeChange) (*VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, "SetVolume", r)
}

// ChangeMirror implements Service.
func (c *Client) ChangeMirror(ctx context.Context, r MirrorChange) (*VolumeStatus, error) {
	return call[VolumeStatus](ctx, c, "ChangeMirror", r)
}

// ChangeDevice implements Service.
func (c *Client) ChangeDevice(ctx context.Context, r DeviceChange) (*DeviceResult, error) {
	return call[DeviceResult](ctx, c, "ChangeDevice", r)
}

// Switchover implements Service.
func (c *Client) Switchover(ctx context.Context, r Switchover, step func(SwitchoverStep)) (*SwitchoverResult, error) {
	return callStream[SwitchoverStep, SwitchoverResult](ctx, c, "Switchover", r, func(s *SwitchoverStep) error {
		if step != nil {
			step(*s)
		}
		return nil
	})
}

// call makes a plain call.
func call[Result any](ctx context.Context, c *Client, name string, request any) (*Result, error) {
	body, end, err := c.post(ctx, name, request)
	if err != nil {
		return nil, err
	}
	defer end()
	result := new(Result)
	data, err := io.ReadAll(io.LimitReader(body, ResponseBytesMax+1))
	if err == nil && len(data) > ResponseBytesMax {
		return nil, Errorf(Failed, c.target, "its answer to %s is longer than %d bytes", name, ResponseBytesMax)
	}
	if err != nil {
		return nil, c.broken(ctx, name, err)
	}
	if err := json.Unmarshal(data, result); err != nil {
		return nil, Errorf(Failed, c.target, "its answer to %s cannot be understood: %v", name, err)
	}
	return result, nil
}

// callStream makes a call that gives items.
func callStream[Item, Result any](ctx context.Context, c *Client, name string, request any, fn func(*Item) error) (*Result, error) {
	body, end, err := c.post(ctx, name, request)
	if err != nil {
		return nil, err
	}
	defer end()
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), ResponseBytesMax)
	for lines.Scan() {
		var line Line[Item, Result]
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, Errorf(Failed, c.target, "its answer to %s cannot be understood: %v", name, err)
		}
		switch {
		case line.Error != nil:
			return nil, line.Error
		case line.Result != nil:
			return line.Result, nil
		case line.Item != nil:
			if err := fn(line.Item); err != nil {
				return nil, err
			}
		}
	}
	err = lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return nil, Errorf(Failed, c.target, "a line of its answer to %s is longer than %d bytes", name, ResponseBytesMax)
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return nil, c.broken(ctx, name, err)
}

// post sends the request and returns the body of a good answer; end has to be called when it is read.
func (c *Client) post(ctx context.Context, name string, request any) (body io.Reader, end func(), err error) {
	data, err := json.Marshal(request)
	if err != nil {
		return nil, nil, Errorf(Failed, "call "+name, "%v", err)
	}
	inner, cancel := graceful(ctx)
	r, err := http.NewRequestWithContext(inner, http.MethodPost, c.base+pathPrefix+name, bytes.NewReader(data))
	if err != nil {
		cancel()
		return nil, nil, Errorf(Failed, c.target, "%v", err)
	}
	r.Header.Set("Content-Type", contentTypeJSON)
	if c.via != "" {
		r.Header.Set(viaHeader, c.via)
		if who, err := json.Marshal(CallerOf(ctx)); err == nil && len(who) <= callerBytesMax {
			r.Header.Set(callerHeader, string(who))
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		r.Header.Set(timeoutHeader, strconv.FormatInt(max(0, time.Until(deadline).Milliseconds()), 10))
	}
	answer, err := c.http.Do(r)
	if err != nil {
		cancel()
		return nil, nil, c.broken(ctx, name, err)
	}
	end = func() { cancel(); _ = answer.Body.Close() } // nothing can be done about it, and the answer was read
	if answer.StatusCode == http.StatusOK {
		return answer.Body, end, nil
	}
	defer end()
	return nil, nil, c.refused(name, answer)
}

// refused reads the error of an answer.
func (c *Client) refused(name string, answer *http.Response) error {
	var doc ErrorDocument
	data, _ := io.ReadAll(io.LimitReader(answer.Body, RequestBytesMax)) // what is missing makes it unreadable below
	if json.Unmarshal(data, &doc) == nil && doc.Error != nil && doc.Error.Code > 0 && doc.Error.Message != "" {
		return doc.Error
	}
	if answer.Header.Get(answeredByKeelson) == "" {
		return Errorf(Unreachable, c.target, "who answers there (%s) is no Keelson agent", answer.Status)
	}
	return Errorf(Failed, c.target, "its answer to %s was %s", name, answer.Status)
}

// graceful is ctx with a deadline that is answerGrace later; cancelling ctx cancels it at once.
func graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	inner, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline.Add(answerGrace))
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})
	return inner, func() { stop(); cancel() }
}

// broken says why there is no, or no whole, answer.
func (c *Client) broken(ctx context.Context, name string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return AsError(context.Canceled)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return &Error{Code: Unfinished, Object: c.target, Message: name + " was not answered within the time limit; if it was begun it goes on",
			Waits: c.target, Next: "look at keelson status, or give it more time (--timeout)"}
	}
	var why string
	switch {
	case errors.Is(err, os.ErrNotExist):
		why = "there is no such socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nobody listens there"
	case errors.Is(err, os.ErrPermission):
		why = "permission to use its socket is denied"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		why = "it ended the connection before the answer was whole"
	default:
		why = fmt.Sprint(errors.Unwrap(err))
		if errors.Unwrap(err) == nil {
			why = err.Error()
		}
	}
	return (&Error{Code: Unreachable, Object: c.target, Message: "it can't be reached: " + why}).WithNext("%s", c.start)
}
