"""Request fields of vLLM that Octavo does not serve yet: refused by name if they would change the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo_engine.errors import RequestError

TOOLS = "it was replaced in OpenAI's API; send tools, or tool_choice, instead"

# name: (why, the values that change nothing; null never does)
UNSERVED_FIELDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "structural_tag": ("send it in structured_outputs, or in response_format", ()),
    "functions": (TOOLS, ([],)),
    "function_call": (TOOLS, ("none",)),
    "prompt_embeds": ("prompts are texts or token ids; embeddings are not served yet", ([],)),
    "suffix": ("only /v1/completions fills in a text before another; leave it out", ("",)),
    "logits_processors": ("no code from a request is run; leave it out", ([],)),
    "watermarking": ("it is not served yet; leave it out", (False,)),
    "kv_transfer_params": (
        "KV blocks are not transferred yet; leave it out (a chat may bring prompt_token_ids in it)",
        ({},),
    ),
    "ec_transfer_params": ("encoder caches are not handed over; leave it out", ({},)),
    "vllm_xargs": ("there are no extensions that would read it; leave it out", ({},)),
    "return_prompt_text": ("it is not served yet; leave it out", (False,)),
    "audio": ("only text is served; leave it out", ()),
    "modalities": ("only text is served; leave it out", (["text"], [])),
    "web_search_options": ("this server searches nothing; leave it out", ()),
}


def refuse_unserved(fields: Mapping[str, Any]) -> None:
    """Raises RequestError for the first of `fields` that is not served and asks for something."""
    for name, value in fields.items():
        known = UNSERVED_FIELDS.get(name)
        if known is None or value is None or value in known[1] or _without_nulls(value) in known[1]:
            continue
        raise RequestError(f"{name}: {known[0]}", name)


def _without_nulls(value: Any) -> Any:
    """`value` without the fields that are null."""
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
