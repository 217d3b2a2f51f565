"""The command `stackmesh`. `app` is the list of commands and what `--help` says; each is done in a file of its own."""
