"""The command `octavo`: its verbs, and the process that they run in. Imports engine and operator only when asked."""
