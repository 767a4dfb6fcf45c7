package main

import (
	"github.com/spf13/cobra"
)

func webCommand(a *app) *cobra.Command {
	return group("web", "The page of this agent", webLink(a))
}

func webLink(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "link", Short: "Prints a one-time link that lets its holder in to the page as administrator", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			link, err := a.client().WebLink(ctx)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(link)
			}
			a.print("%s\n", link.URL)
			a.note("It lets in once, until %s.", link.Expires.Local().Format("15:04"))
			return nil
		},
	}
}
