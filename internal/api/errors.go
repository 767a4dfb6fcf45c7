package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Errorf makes an error about an object.
func Errorf(code Code, object, format string, args ...any) *Error {
	return &Error{Code: code, Object: object, Message: fmt.Sprintf(format, args...)}
}

// WithNext adds what to do next.
func (e *Error) WithNext(format string, args ...any) *Error {
	e.Next = fmt.Sprintf(format, args...)
	return e
}

// Refusal is the error of something that a rule forbids; nothing was changed.
func Refusal(rule, object, message, next string) *Error {
	return &Error{Code: Refused, Rule: rule, Object: object, Message: message, Next: next}
}

// AsError finds the *Error in err, or makes one: the end of a context's time is Unfinished, anything else Failed.
// It is nil for nil.
func AsError(err error) *Error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: Unfinished, Message: "not finished within the time limit", Waits: "the agent", Next: "look at keelson status; what was begun goes on"}
	case errors.Is(err, context.Canceled):
		return &Error{Code: Unfinished, Message: "interrupted; what was begun goes on", Next: "look at keelson status"}
	}
	return &Error{Code: Failed, Message: err.Error()}
}

// HTTPStatus is the status that a code has on the wire.
func (c Code) HTTPStatus() int {
	switch c {
	case Usage:
		return http.StatusBadRequest
	case Refused:
		return http.StatusConflict
	case Unfinished:
		return http.StatusGatewayTimeout
	case Unreachable:
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}

// ErrorDocument is how an error travels, and what the command line prints with --json.
type ErrorDocument struct {
	Error *Error `json:"error"`
}
