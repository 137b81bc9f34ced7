"""Batches of requests from a file: rows are read and checked, sent to a server, and their answers written, each once."""
