"""Beam search: the likeliest answers instead of drawn ones.

`search` is pure: it keeps one prompt's beams and decides which go on. `outputs` has the engine extend them, a token a step,
and hands the best over as the outputs of ordinary sequences, so that answers are written as any others.
"""
