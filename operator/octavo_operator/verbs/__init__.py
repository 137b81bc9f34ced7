"""`octavo plan`, `octavo render` and `octavo up`: the commands that need no cluster."""
