"""Decides when a pass runs: watches, queue, workers and health. Knows nothing of what a pass does."""
