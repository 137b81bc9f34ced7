"""Which request computes which tokens in which blocks: sequences, blocks, schedule.

The core decides and keeps the books; it never sees a tensor, a socket or text, and imports neither torch nor numpy.
"""
