"""Limits on the cost of a request: every bound of the API process, each checked before memory or time is spent.

The one place for these numbers; `docs/reference/limits.md` lists them, and a test compares both. The code that would
spend the memory or the time checks the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo_engine.config import EngineConfig

MIB = 2**20

# Lists of a request
MAX_MESSAGES = 4096
MAX_STOP_TOKEN_IDS = 1024
MAX_BIASED_TOKENS = 1024
MAX_LOGPROB_TOKEN_IDS = 128
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_CHARACTERS = 16384  # of all of a request together
MAX_BANS = 2**20  # token ids of allowed_token_ids, bad_words and logit_bias, times the request's sequences
MAX_CHOICES = 10_000  # of structured_outputs.choice
MAX_GRAMMAR_CHARACTERS = 256 * 1024  # of what constrains an answer, as a grammar
MAX_SCHEMA_MEMBERS = 1000  # of one object or list in a JSON schema
MAX_SCHEMA_DEPTH = 120  # of objects and lists in one another in a JSON schema
MAX_LITERAL_CHARACTERS = (
    10_000  # of one text, name or pattern in a schema, one choice, a regex, or one line of a grammar
)
MAX_MULTIPLE = 10_000  # of multipleOf, without its trailing zeros; of several in a schema their least common multiple
MAX_STORED_RESPONSES = 1024  # of /v1/responses
MAX_STORED_CHARACTERS = 32 * MIB  # of their conversations, and of the fields that they repeat from their requests
MAX_PROMPT_LOGPROBS = 2**17  # numbers, of all prompts and choices: (k + 1) for each token
MAX_LOGPROBS = 2**20  # numbers, of all that a request may generate
MAX_PATTERN_SIZE = 256  # tokens, of repetition_detection: each takes a comparison with every token that is drawn
MAX_BEAMS = 64  # of one prompt: `n` with use_beam_search

# Files and batches (`--batch-dir`)
MAX_STORED_FILES = 10_000
MAX_STORED_BATCHES = 10_000
MAX_BATCH_ROWS = 50_000  # of one batch
MAX_ROW_FIELDS = 16 * 1024  # bytes of a line besides its body
MAX_CUSTOM_ID = 512  # characters
MAX_METADATA = 16  # entries, of 64 and 512 characters

# Clients
HEAD_SECONDS = 60.0  # until a new connection has sent the head of a request
BODY_GRACE_SECONDS = 30.0  # for a body, and a second more for each
SLOWEST_BODY = 32 * 1024  # bytes of it
STALL_SECONDS = 120.0  # after that time without reading its answer, a client counts as gone
VANISHED_SECONDS = 60  # until a client whose machine disappeared is noticed

# What the event loop does itself; more goes to a pool
SHORT_TEXT = 8192  # characters to tokenize: a few ms at most
LONG_TEXT = 2**17  # characters of which one request's are tokenized at a time
FEW_TEXTS = 64  # pieces they may come in
FEW_TOKENS = 4096  # to decode
FEW_LOGPROBS = 512  # to format


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds that follow the model and the flags."""

    body_bytes: int  # of one body, on the wire and decompressed
    all_body_bytes: int  # of all requests that are not yet sent to the engine
    body_values: int  # elements of lists and members of objects in one body
    text_characters: int  # of one request's texts together
    request_tokens: int  # of one request's prompts, times n
    sequences: int  # prompts times n


def limits_of(config: EngineConfig, max_model_len: int) -> Limits:
    """The bounds of a server with `config` whose model has a context of `max_model_len` tokens."""
    scheduler = config.scheduler
    # 32 bytes hold a token of most texts, escapes included; parsing 2 MiB of them keeps the interpreter's lock for 15 ms.
    derived = min(32 * MIB, max(2 * MIB, 32 * max_model_len))
    if config.api.renders_only:
        derived = 32 * MIB  # log-probabilities of a whole answer, to be derendered
    body = derived if config.server.max_body_bytes is None else config.server.max_body_bytes
    queued = 4096 if scheduler.max_num_queued_reqs is None else scheduler.max_num_queued_reqs
    all_sequences = scheduler.max_num_seqs + queued
    return Limits(
        body_bytes=body,
        all_body_bytes=max(64 * MIB, 2 * body),
        body_values=2**22 if config.api.renders_only else max(2**17, max_model_len + 2**14),
        text_characters=max(2**20, 16 * max_model_len),
        request_tokens=max(2**20, max_model_len),
        sequences=min(all_sequences, max(scheduler.max_num_seqs, config.server.max_n, all_sequences // 4)),
    )
