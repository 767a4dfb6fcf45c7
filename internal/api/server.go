package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Limits of the control interface.
const (
	RequestBytesMax   = 1 << 20          // body of a request
	ResponseBytesMax  = 16 << 20         // body of a plain answer, or one line of a stream
	callsMax          = 256              // plain calls at once
	streamsMax        = 64               // streams at once
	callTimeMax       = 15 * time.Minute // of a call whose caller named no limit
	lineWriteTimeMax  = 10 * time.Second // until a reader that takes nothing is hung up on
	requestReadMax    = 10 * time.Second // for a request's body
	timeoutHeader     = "Keelson-Timeout-Ms"
	viaHeader         = "Keelson-Via"
	contentTypeJSON   = "application/json"
	contentTypeLines  = "application/x-ndjson"
	pathPrefix        = "/v1/"
	answeredByKeelson = "Keelson-Api"
)

type viaKey struct{}

// Via is the server whose agent passed this call on, or "" if it comes from where it was made. A call is passed on once.
func Via(ctx context.Context) string {
	via, _ := ctx.Value(viaKey{}).(string)
	return via
}

// handler serves the calls of a Service.
type handler struct {
	service Service
	audit   Auditor // may be nil
	calls   map[string]*Call
	plain   chan struct{} // a token for each plain call
	streams chan struct{} // a token for each stream
}

// NewHandler offers a Service over HTTP: POST /v1/CALL. It limits bodies, calls at once, and the time a call takes.
func NewHandler(s Service) http.Handler { return NewAuditedHandler(s, nil) }

// NewAuditedHandler is NewHandler whose calls that change something are each noted as they end, unless another agent
// passed them on: it has noted them.
func NewAuditedHandler(s Service, audit Auditor) http.Handler {
	h := &handler{service: s, audit: audit, calls: map[string]*Call{}, plain: make(chan struct{}, callsMax), streams: make(chan struct{}, streamsMax)}
	for i := range calls {
		h.calls[calls[i].Name] = &calls[i]
	}
	return h
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(answeredByKeelson, "1")
	name, ok := strings.CutPrefix(r.URL.Path, pathPrefix)
	call := h.calls[name]
	if !ok || call == nil {
		writeError(w, http.StatusNotFound, Errorf(Usage, "", "there is no call %.100q here", r.URL.Path).WithNext("is this agent of an older version?"))
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		writeError(w, http.StatusMethodNotAllowed, Errorf(Usage, "call "+name, "calls are made with POST"))
		return
	}
	tokens := h.plain
	if call.Item != nil {
		tokens = h.streams
	}
	select {
	case tokens <- struct{}{}:
		defer func() { <-tokens }()
	default:
		writeError(w, http.StatusServiceUnavailable, Errorf(Failed, "call "+name, "%d calls of this kind are under way already", cap(tokens)).WithNext("try again later"))
		return
	}
	ctx, cancel := callContext(r, call)
	defer cancel()
	h.serve(ctx, w, r, call)
}

// callContext ends when the caller goes away or its time is over.
func callContext(r *http.Request, call *Call) (context.Context, context.CancelFunc) {
	ctx := r.Context()
	if node, ok := ctx.Value(peerKey{}).(string); ok { // nobody else's word counts on who called
		ctx = WithCaller(ctx, Caller{Kind: CallerPeer, Name: node})
		if r.Header.Get(viaHeader) != "" {
			ctx = passedOn(context.WithValue(ctx, viaKey{}, node), r.Header)
		}
	}
	limit := callTimeMax
	if ms, err := strconv.ParseInt(r.Header.Get(timeoutHeader), 10, 64); err == nil && ms >= 0 && ms < int64(limit/time.Millisecond) {
		limit = time.Duration(ms) * time.Millisecond
	} else if call.Item != nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// serve makes the call and writes its answer. The status line of a stream is written with its first line, so that an
// error before it has a status of its own.
func (h *handler) serve(ctx context.Context, w http.ResponseWriter, r *http.Request, call *Call) {
	lines := &lineWriter{w: w, control: http.NewResponseController(w)}
	var request any // once it was read
	result, err := call.serve(ctx, h.service, func(into any) error {
		err := decodeRequest(w, r, into)
		if err == nil {
			request = into
		}
		return err
	}, lines.write)
	if request != nil && h.audit != nil && call.Changes && Via(ctx) == "" {
		h.audit(ctx, Audited(ctx, call.Name, request, err))
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		writeError(w, http.StatusRequestEntityTooLarge, Errorf(Usage, "call "+call.Name, "the request is longer than %d bytes", tooLarge.Limit))
	case lines.err != nil: // nobody reads any more
	case err != nil && lines.begun:
		_ = lines.write(ErrorDocument{AsError(err)}) // a reader that is gone does not need it
	case err != nil:
		e := AsError(err)
		writeError(w, e.Code.HTTPStatus(), e)
	case call.Item != nil:
		_ = lines.write(result)
	default:
		writeJSON(w, http.StatusOK, result)
	}
}

// decodeRequest reads exactly one JSON value without unknown fields and checks it.
func decodeRequest(w http.ResponseWriter, r *http.Request, into any) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestReadMax)) // not every writer has deadlines
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != contentTypeJSON {
		return Errorf(Usage, "", "the request's content type is %.50q and not %s", kind, contentTypeJSON)
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, RequestBytesMax))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		var more json.RawMessage
		if err = d.Decode(&more); err == nil {
			err = errors.New("more than one value")
		} else if err == io.EOF {
			err = nil
		}
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	if err != nil {
		return Errorf(Usage, "", "the request cannot be understood: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // see above
	if c, ok := into.(interface{ Check() error }); ok {
		return c.Check()
	}
	return nil
}

// lineWriter writes the lines of a stream. Its first error ends it.
type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
	err     error
}

func (l *lineWriter) write(line any) error {
	if l.err != nil {
		return l.err
	}
	data, err := json.Marshal(line)
	if err != nil {
		return err
	}
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", contentTypeLines)
	}
	_ = l.control.SetWriteDeadline(time.Now().Add(lineWriteTimeMax)) // not every writer has deadlines
	if _, l.err = l.w.Write(append(data, '\n')); l.err == nil {
		l.err = l.control.Flush()
	}
	return l.err
}

func writeError(w http.ResponseWriter, status int, e *Error) {
	writeJSON(w, status, ErrorDocument{e})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		status = http.StatusInternalServerError
		data = []byte(`{"error":{"code":1,"message":"the answer cannot be written as JSON"}}`)
	}
	w.Header().Set("Content-Type", contentTypeJSON)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(lineWriteTimeMax)) // not every writer has deadlines
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a reader that is gone does not need it
}
