package main

import (
	"bufio"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"keelson/internal/api"
)

// passwordLineMax is the most that is read of a password from a stream, in bytes.
const passwordLineMax = 1 << 10

func userCommand(a *app) *cobra.Command {
	return group("user", "Users of the page, on every server: list, add, role, passwd, remove",
		userList(a), userAdd(a), userRole(a), userPasswd(a), userRemove(a))
}

func userList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Shows the users of the page", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			users, err := a.client().Users(ctx)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(users.Users)
			}
			for _, u := range users.Users {
				login := "password"
				if !u.Password {
					login = "no password: keelson user passwd " + u.Name
				}
				a.print("%-20s  %-13s  %s\n", u.Name, u.Role, login)
			}
			return nil
		},
	}
}

func userAdd(a *app) *cobra.Command {
	r := api.UserChange{Action: "add"}
	var none bool
	c := &cobra.Command{
		Use: "add NAME --role ROLE", Short: "Adds a user of the page; asks for the password, or reads it as a line of standard input",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			r.Name = args[0]
			if err := r.Check(); err != nil {
				return err
			}
			if !none {
				if r.Password, err = a.readPassword(); err != nil {
					return err
				}
			}
			return a.changeUser(c, r, "added, as "+r.Role)
		},
	}
	roleFlag(c, &r.Role)
	c.Flags().BoolVar(&none, "no-password", false, "no password yet: keelson user passwd gives one")
	return c
}

func userRole(a *app) *cobra.Command {
	r := api.UserChange{Action: "role"}
	c := &cobra.Command{
		Use: "role NAME --role ROLE", Short: "Gives a user another role; ends the user's sessions", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Name = args[0]
			return a.changeUser(c, r, "is "+r.Role+" now")
		},
	}
	roleFlag(c, &r.Role)
	return c
}

func roleFlag(c *cobra.Command, role *string) {
	c.Flags().StringVar(role, "role", "", "`administrator`, operator (may switch over) or viewer")
	_ = c.MarkFlagRequired("role") // fails only for a flag that is not defined
}

func userPasswd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "passwd NAME", Short: "Gives a user another password, asked for or a line of standard input; ends the user's sessions",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			password, err := a.readPassword()
			if err != nil {
				return err
			}
			return a.changeUser(c, api.UserChange{Action: "passwd", Name: args[0], Password: password}, "has another password now")
		},
	}
}

func userRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Removes a user; ends the user's sessions", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeUser(c, api.UserChange{Action: "remove", Name: args[0]}, "removed")
		},
	}
}

// changeUser makes the call and says what became of the user.
func (a *app) changeUser(c *cobra.Command, r api.UserChange, done string) error {
	if err := r.Check(); err != nil {
		return err
	}
	ctx, cancel := a.limited(c)
	defer cancel()
	users, err := a.client().ChangeUser(ctx, r)
	if err != nil {
		return runError{err}
	}
	if !a.json {
		a.print("user %s %s\n", r.Name, done)
		return nil
	}
	if at := slices.IndexFunc(users.Users, func(u api.User) bool { return u.Name == r.Name }); at >= 0 {
		return a.document(users.Users[at])
	}
	return a.document(api.User{Name: r.Name})
}

// readPassword asks twice on a terminal; otherwise the password is a line of standard input.
func (a *app) readPassword() (string, error) {
	file, ok := terminal(a.in)
	if !ok {
		line, err := bufio.NewReader(io.LimitReader(a.in, passwordLineMax)).ReadString('\n')
		password := strings.TrimRight(line, "\r\n")
		if password == "" {
			return "", usagef("standard input has no password: %v", err)
		}
		return password, nil
	}
	var said [2]string
	for i, question := range []string{"Password: ", "Again: "} {
		_, _ = a.err.Write([]byte(question)) // see print
		secret, err := term.ReadPassword(int(file.Fd()))
		a.note("")
		if err != nil {
			return "", usagef("the password cannot be read: %v", err)
		}
		said[i] = string(secret)
	}
	if said[0] != said[1] {
		return "", usagef("the passwords differ; nothing was changed")
	}
	return said[0], nil
}
