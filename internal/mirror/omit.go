package mirror

// Omit leaves out the protection of that name, if there is one: for tests, which show that their checks notice.
func (c *Config) Omit(name string) { c.omit = name }
