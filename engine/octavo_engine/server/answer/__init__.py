"""From outputs to HTTP: whole answers, streams, log-probabilities, errors."""
