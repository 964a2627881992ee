"""What `check` looks at, a file for each kind of question; every check is a function of a `Subject`."""
