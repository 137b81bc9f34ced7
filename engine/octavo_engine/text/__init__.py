"""Converts between text and tokens: tokenizers, chat templates, detokenizing, stop strings. Imports no torch."""
