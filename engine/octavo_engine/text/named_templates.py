"""Chat formats that authors document for models whose files bring no chat template: Jinja templates by name.

A format in plain text has no token that ends a turn, and a base model goes on with the next one: `stops` are the strings
that such a turn begins with. A name is API, as is what its template writes: add templates, never change one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """One format. In its text, `bos_token` is empty where the tokenizer puts none before a text."""

    name: str
    text: str
    stops: tuple[str, ...]  # an answer ends before the first of them
    families: frozenset[str] = frozenset()
    """Models that get it where they bring none, as `architectures` in config.json and GGUF's `general.architecture` name
    them. Llama's names are in no family: models of several formats share them."""
    hidden_size: int | None = None
    """The size of the family's models that have this format, where authors document others for its other sizes."""


def _before(*headings: str) -> tuple[str, ...]:
    """Stops at a line that begins with one of `headings`, and at the empty line before it."""
    return tuple(gap + heading for heading in headings for gap in ("\n\n", "\n"))


# "QA Format" of https://huggingface.co/microsoft/phi-2. phi-1 and phi-1.5, of one size and architecture, have others: the
# former completes code alone, the latter's answers follow "Answer:" and its chats the names of two people.
PHI_2 = NamedTemplate(
    "phi-2",
    """\
{% for message in messages %}
{% if message.role == 'system' %}
{{ message.content | trim }}
{% elif message.role == 'user' %}
Instruct: {{ message.content | trim }}
{% elif message.role == 'assistant' %}
Output: {{ message.content | trim }}
{% else %}
{{ raise_exception('phi-2 has no role ' ~ message.role) }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
Output:
{%- endif %}
""",
    _before("Instruct:", "Output:"),
    frozenset({"PhiForCausalLM", "phi2"}),
    hidden_size=2560,
)

# https://github.com/openai/openai-python/blob/v0.28.1/chatml.md, which the first Qwen chat models follow
CHATML = NamedTemplate(
    "chatml",
    """\
{{ bos_token }}
{%- for message in messages %}
{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}
""",
    ("<|im_end|>", "<|im_start|>"),
    frozenset({"QWenLMHeadModel", "qwen"}),
)

# `PROMPT_DICT` of https://github.com/tatsu-lab/stanford_alpaca, for one turn; further ones repeat its parts. A system
# message takes the place of its first sentences.
ALPACA = NamedTemplate(
    "alpaca",
    """\
{{ bos_token }}
{%- if messages[0].role != 'system' %}
{{ 'Below is an instruction that describes a task. ' }}
{{- 'Write a response that appropriately completes the request.\n\n' }}
{%- endif %}
{% for message in messages %}
{% if message.role == 'system' %}
{{ message.content | trim }}

{% elif message.role == 'user' %}
### Instruction:
{{ message.content | trim }}

{% elif message.role == 'assistant' %}
### Response:{{ message.content }}

{% else %}
{{ raise_exception('alpaca has no role ' ~ message.role) }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
### Response:
{%- endif %}
""",
    _before("### Instruction:", "### Response:"),
)

# Versions 1.1 and later: https://github.com/lm-sys/FastChat/blob/main/docs/vicuna_weights_version.md
VICUNA = NamedTemplate(
    "vicuna",
    """\
{{ bos_token }}
{%- if messages[0].role != 'system' %}
{{- 'A chat between a curious user and an artificial intelligence assistant. ' }}
{{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- message.content | trim ~ ' ' }}
{%- elif message.role == 'user' %}
{{- 'USER: ' ~ message.content | trim ~ ' ' }}
{%- elif message.role == 'assistant' %}
{{- 'ASSISTANT: ' ~ message.content | trim ~ eos_token }}
{%- else %}
{{- raise_exception('vicuna has no role ' ~ message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'ASSISTANT:' }}
{%- endif %}
""",
    ("\nUSER:", " USER:"),
)

# As the template of https://huggingface.co/tiiuae/falcon-7b-instruct writes it
FALCON = NamedTemplate(
    "falcon",
    """\
{% for message in messages %}
{% if message.role == 'system' %}
{{ message.content | trim }}
{%- elif message.role == 'user' %}
{{ '\n\nUser: ' ~ message.content | trim }}
{%- elif message.role == 'assistant' %}
{{ '\n\nAssistant: ' ~ message.content | trim }}
{%- else %}
{{ raise_exception('falcon has no role ' ~ message.role) }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '\n\nAssistant:' }}
{%- endif %}
""",
    _before("User:", "Assistant:"),
    frozenset({"FalconForCausalLM", "RWForCausalLM", "falcon"}),
)

NAMED_TEMPLATES = {template.name: template for template in (ALPACA, CHATML, FALCON, PHI_2, VICUNA)}
NAMES = ", ".join(NAMED_TEMPLATES)


def template_of_family(architectures: Iterable[str], hidden_size: Callable[[], int | None]) -> NamedTemplate | None:
    """The format of a model that goes by one of these names; None if its authors document none.

    `hidden_size` reads the model's, where a format is that of one size.
    """
    names = frozenset(architectures)
    found = next((template for template in NAMED_TEMPLATES.values() if names & template.families), None)
    if found is None or found.hidden_size is None or found.hidden_size == hidden_size():
        return found
    return None
