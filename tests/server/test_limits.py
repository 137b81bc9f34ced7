"""The limits' reference has the values of the code."""

from __future__ import annotations

from pathlib import Path

from octavo_engine.config import EngineConfig, ModelConfig, SchedulerConfig, ServerConfig
from octavo_engine.server import pools
from octavo_engine.server.intake import limits
from octavo_engine.server.intake.limits import MIB, limits_of
from octavo_engine.text import chat_messages, chat_template, stop_strings

PAGE = Path(__file__).parents[2] / "docs/reference/limits.md"


def config(**server) -> EngineConfig:
    return EngineConfig(model=ModelConfig(model="m", served_model_names=("m",)), server=ServerConfig(**server))


def test_the_page_has_every_number():
    """Row by row."""
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in PAGE.read_text().splitlines() if "|" in line]
    page = dict(row for row in rows if len(row) == 2)
    small, scheduler = limits_of(config(), 64), SchedulerConfig()
    threads = pools.THREADS
    expected = {
        "JSON values in it": f"{small.body_values:,}, or the context and {2**14:,}",
        "pace of the body": f"{limits.SLOWEST_BODY // 1024} KiB a second after {limits.BODY_GRACE_SECONDS:g} s",
        "characters of all its texts": f"{small.text_characters:,}, or 16 for each token of the context",
        "prompt tokens, times `n`": f"{small.request_tokens:,}, or the context",
        "`n`": f"{ServerConfig().max_n}",
        "`repetition_detection.max_pattern_size`": f"{limits.MAX_PATTERN_SIZE}",
        "`n` with `use_beam_search`": f"{limits.MAX_BEAMS}",
        "messages": f"{limits.MAX_MESSAGES:,}",
        "JSON values in the arguments of tool calls": f"{chat_messages.MAX_ARGUMENT_VALUES:,}",
        "stop strings": f"{stop_strings.MAX_STOP_STRINGS} of {stop_strings.MAX_STOP_CHARACTERS:,} characters",
        "`stop_token_ids`": f"{limits.MAX_STOP_TOKEN_IDS:,}",
        "`structured_outputs.choice`": f"{limits.MAX_CHOICES:,}",
        "stored responses": f"{limits.MAX_STORED_RESPONSES:,}, with {limits.MAX_STORED_CHARACTERS:,} characters of conversations",
        "files and batches": (
            f"{limits.MAX_STORED_FILES:,} each, {limits.MAX_BATCH_ROWS:,} rows in a batch, a body and "
            f"{limits.MAX_ROW_FIELDS // 1024} KiB in a line, {limits.MAX_CUSTOM_ID} characters in a `custom_id`; "
            "`--batch-file-bytes`, `--batch-dir-bytes`"
        ),
        "members of one object or list in a JSON schema": f"{limits.MAX_SCHEMA_MEMBERS:,}",
        "depth of a JSON schema": f"{limits.MAX_SCHEMA_DEPTH}",
        "`multipleOf`": f"{limits.MAX_MULTIPLE:,}",
        "one text, name or pattern in a JSON schema, one choice, a regex, a line of a grammar": (
            f"{limits.MAX_LITERAL_CHARACTERS:,} characters"
        ),
        "what constrains an answer": f"{limits.MAX_GRAMMAR_CHARACTERS:,} characters",
        "`logit_bias`": f"{limits.MAX_BIASED_TOKENS:,}",
        "`logprob_token_ids`": f"{limits.MAX_LOGPROB_TOKEN_IDS:,}",
        "`bad_words`": f"{limits.MAX_BAD_WORDS:,} of {limits.MAX_BAD_WORD_CHARACTERS:,} characters",
        "token ids of `allowed_token_ids`, `bad_words` and `logit_bias`, times sequences": f"{limits.MAX_BANS:,}",
        "log-probabilities of prompts, times `n`": f"{limits.MAX_PROMPT_LOGPROBS:,}",
        "log-probabilities of what is generated, times sequences": f"{limits.MAX_LOGPROBS:,}",
        "log-probabilities of a token": f"`--max-logprobs`, {ServerConfig().max_logprobs}",
        "rendering of a chat": f"{chat_template.RENDER_SECONDS:g} s, 1 GiB, the characters of all texts",
        "requests that wait": f"`--max-num-queued-reqs`, {scheduler.max_num_queued_reqs:,}",
        "prompt tokens that wait": f"`--max-num-queued-tokens`, {scheduler.max_num_queued_tokens:,}",
        "bodies that are not yet sent to the engine": f"{small.all_body_bytes // MIB} MiB, or two of the largest",
        "threads": (
            f"{threads['read']} to read, {threads['encode']} to tokenize and {threads['encode_long']} for more than "
            f"{limits.LONG_TEXT:,} characters, {threads['render']} to render, "
            f"{threads['decode']} to decode, {threads['format']} to format"
        ),
        "a new connection without a request": f"{limits.HEAD_SECONDS:g} s",
        "a client that takes nothing of its answer": f"{limits.STALL_SECONDS:g} s",
        "a client whose machine has gone": f"{limits.VANISHED_SECONDS} s",
    }
    assert {name: page[name] for name in expected} == expected


def test_bounds_follow_the_context():
    """Any prompt that fits it can be sent; the flag wins."""
    assert [limits_of(config(), length).body_bytes // MIB for length in (64, 131_072, 10_000_000)] == [2, 4, 32]
    assert limits_of(config(max_body_bytes=100), 131_072).body_bytes == 100
    large = limits_of(config(), 2**20)
    assert large.body_values > 2**20
    assert large.request_tokens >= 2**20
    assert large.text_characters == 2**24
