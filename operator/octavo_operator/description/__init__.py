"""Finds out what a model is: from its files, the hub, an annotation. Knows nothing of clusters or plans."""
