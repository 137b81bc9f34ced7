"""Decides when a pass runs: watches, queue, workers and health. What a pass does is `reconcile`'s."""
