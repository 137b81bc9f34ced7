"""Decides which request computes which tokens in which blocks: sequences, blocks, schedule.

Handles no tensors, sockets or text, and imports neither torch nor numpy.
"""
