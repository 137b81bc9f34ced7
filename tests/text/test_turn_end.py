"""A chat's answer ends where its template ends a turn, whatever the model's files say of EOS."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from templates import CHATML, GENERATION, HEADERS, INSTRUCTION_BRACKETS, PARTS, TOOLS
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from octavo_engine.cli.arguments import parse
from octavo_engine.server.context import ServerContext
from octavo_engine.text.chat_template import ChatTemplate
from octavo_engine.text.special_tokens import SpecialTokens
from octavo_engine.text.tokenizer import Tokenizer
from octavo_engine.text.turn_end import turn_ends
from octavo_engine.weights.generation_config import GenerationDefaults

SPECIAL = (
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
    "<|return|>",
    "<|user|>",
)
TAG = "<end_of_turn>"  # a token that its model does not declare special
SPACES = "    "  # nor is this one, and it ends no turn

# The shapes of turns that published models write.
TAGGED = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
# The last answer ends a turn, an earlier one only a message.
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
)
# Nothing ends a turn but the next one.
HEADED = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
)
OPEN_AT_THE_END = (
    "{% for m in messages %}<|im_start|>{{ m.content }}{% if not loop.last %}<|im_end|>{% endif %}{% endfor %}"
)
REFUSING = "{{ raise_exception('only documents are summarized here') }}"
UNKNOWN_TOKEN = "{% for m in messages %}{{ m.content }}<|no_token_of_ours|>{% endfor %}"
INDENTED = "{% for m in messages %}{{ m.content }}    and so on{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in (TAG, SPACES)])
    return Tokenizer(backend, SpecialTokens.by_text(backend, {"eos_token": "<|endoftext|>"}))


@pytest.fixture
def ends(tokenizer):
    """The turn ends of some templates, as text."""
    made = []

    def of(templates, *, chat_template=None, **options):
        if isinstance(templates, str):
            templates = {"default": templates}
        made.append(ChatTemplate(templates, {"bos_token": "<s>", "eos_token": "</s>"}, **options))
        return [tokenizer.piece(index) for index in turn_ends(made[-1], tokenizer, chat_template)]

    yield of
    for template in made:
        template.close()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["<|im_end|>"]),
        (THINKING, ["<|im_end|>"]),
        (HEADERS, ["<|eot_id|>"]),
        (INSTRUCTION_BRACKETS, ["</s>"]),
        (GENERATION, ["</s>"]),
        (TAGGED, [TAG]),
        (HARMONY, ["<|return|>"]),
        (HEADED, ["<|user|>"]),
        (OPEN_AT_THE_END, ["<|im_end|>"]),
        (TOOLS, []),
        (PARTS, []),
        (INDENTED, []),
        (UNKNOWN_TOKEN, []),
        (REFUSING, []),
        ("{% for", []),
        ("no messages in it", []),
    ],
)
def test_a_template_shows_which_token_ends_a_turn(ends, template, expected):
    """The special token behind the answer; mere text ends nothing, and a template that fails has no say."""
    assert ends(template) == expected


def test_a_template_that_fails_is_named_in_the_log(ends, caplog):
    """Answers then end at EOS only, which a user would otherwise find out from answers that run on."""
    with caplog.at_level(logging.WARNING):
        assert ends(REFUSING) == []
    assert "only the model's EOS ends an answer: the chat template refuses these messages" in caplog.text


def test_a_requests_template_that_fails_is_not_the_logs_business(ends, caplog):
    """Any client could fill the log with it."""
    with caplog.at_level(logging.WARNING):
        assert ends(CHATML, chat_template=REFUSING) == []
    assert not caplog.text


def test_the_flags_template_counts_in_place_of_the_files(ends):
    """`--chat-template`."""
    assert ends(HEADERS, override=CHATML) == ["<|im_end|>"]


def test_each_of_a_models_named_templates_counts(ends):
    """Tool calls are rendered by one of their own."""
    assert ends({"default": CHATML, "tool_use": HEADERS}) == ["<|im_end|>", "<|eot_id|>"]


def test_a_requests_template_counts_for_itself(ends):
    """The server's own ends do not count."""
    assert ends(HEADERS, chat_template=CHATML) == ["<|im_end|>"]


def test_a_model_without_a_template_has_no_turns(ends):
    assert ends({}) == []


def test_the_content_format_that_is_forced_is_the_one_that_is_tried(ends):
    """A template of parts gets parts."""
    parts = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}<|end|>{% endfor %}"
    assert ends(parts, content_format="openai") == ["<|end|>"]


def test_a_turn_end_joins_the_models_own_eos(tokenizer):
    """A model of the hub whose EOS is <|endoftext|> and whose template ends turns with another token."""
    im_end, end, beyond = tokenizer.token_id("<|im_end|>"), tokenizer.token_id("<|end|>"), tokenizer.vocab_size
    context = ServerContext(
        config=parse(["m"]),
        client=None,
        tokenizer=tokenizer,
        chat_template=None,
        defaults=GenerationDefaults(eos_token_ids=(tokenizer.token_id("</s>"),)),
        turn_ends=(im_end, beyond),
        ready=SimpleNamespace(vocab_size=tokenizer.vocab_size, max_model_len=64, executor="none"),
        metrics=None,
    )
    assert [tokenizer.piece(index) for index in context.eos_token_ids] == ["<|endoftext|>", "</s>", "<|im_end|>"]
    assert context.ends((end,))[-1] == end, "a request's template counts in place of the server's"
    assert im_end not in context.ends((end,))
