package main

import (
	"bufio"
	"context"
	"strings"

	"keelson/internal/api"
)

// askable fails where nobody can be asked before deed is done. look is another way to see first what it would do, if
// there is one.
func (a *app) askable(deed, look string) error {
	if _, ok := terminal(a.in); ok {
		return nil
	}
	return usagef("%s asks before it acts, and standard input is no terminal", deed).
		WithNext("give --yes to go ahead without being asked%s", after(", or ", look))
}

// ask is nil if the question is answered with yes. Otherwise its error says that the object was left as it is: undone
// is what was not done to it, such as "not switched over".
func (a *app) ask(ctx context.Context, object, question, undone string) error {
	_, _ = a.err.Write([]byte(question + " [y/N] ")) // see print
	answer := make(chan string, 1)
	go func() { // ends with the answer, or with the process if none comes
		text, _ := bufio.NewReader(a.in).ReadString('\n') // an end of input is no answer
		answer <- strings.ToLower(strings.TrimSpace(text))
	}()
	select {
	case text := <-answer:
		if text == "y" || text == "yes" {
			return nil
		}
		return api.Errorf(api.Failed, object, "%s: you did not say yes; nothing was changed", undone)
	case <-ctx.Done():
		return api.Errorf(api.Failed, object, "%s: no answer; nothing was changed", undone).WithNext("give --yes to go ahead without being asked")
	}
}
