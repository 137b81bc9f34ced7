"""The command line: flags, configuration and the verbs of `octavo serve`, `chat` and `bench`."""
