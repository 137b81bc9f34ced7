"""Memory that octavo's API server takes for requests at the edge of its bounds, above what it takes when idle.

The bounds are the engine's own (octavo_engine.server.intake.limits, docs/reference/limits.md), which a contract test compares;
what one byte or character of them costs is measured, and `make test-soak` tries whether it is enough.
"""

from __future__ import annotations

from octavo_operator.planner.sizes import MIB

READERS, ENCODERS = 2, 2  # threads of each kind; one more tokenizes long texts
LONG_TEXT = 2**17
# Bytes, text and parsed values of a body at once.
COPIES_OF_A_BODY = 8
# Tokens of one character with their texts, offsets and masks: 164 bytes for words, 613 for characters that are four
# bytes long (SmolLM2's tokenizer, a million characters).
BYTES_A_CHARACTER = 640


def body_bytes(max_model_len: int) -> int:
    """The largest body."""
    return min(32 * MIB, max(2 * MIB, 32 * max_model_len))


def held_bytes(max_model_len: int) -> int:
    """Bytes of all bodies that are not yet sent to the engine."""
    return max(64 * MIB, 2 * body_bytes(max_model_len))


def text_characters(max_model_len: int) -> int:
    """Characters of one request's texts."""
    return max(2**20, 16 * max_model_len)


def request_bytes(max_model_len: int) -> int:
    """The API server's peak above what it takes when idle."""
    reading = READERS * COPIES_OF_A_BODY * body_bytes(max_model_len)
    characters = text_characters(max_model_len) + ENCODERS * LONG_TEXT
    return held_bytes(max_model_len) + reading + BYTES_A_CHARACTER * characters
