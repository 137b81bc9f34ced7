"""Diagnoses what went wrong, and what to do, from the words of API server, scheduler, kubelet and engine. Pure."""
