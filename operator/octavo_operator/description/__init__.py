"""Describes a model from its files, the hub or an annotation. Independent of clusters and plans."""
