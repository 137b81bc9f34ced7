"""Writes outputs as HTTP: whole answers, streams, log-probabilities, errors."""
