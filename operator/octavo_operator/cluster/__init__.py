"""Talks to the API server, and reads what it keeps in objects: owners of fields, drift, the Lease."""
