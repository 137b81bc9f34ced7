"""The tokens that end an assistant's turn, as its chat template writes them.

A model's files name the tokens that end a text. A template that was chosen for it, or one beside an EOS that only ends
documents, may end turns with another token; without it, a chat would run on into the next turn.
"""

from __future__ import annotations

from octavo_engine.text.chat_template import ChatTemplate
from octavo_engine.text.tokenizer import Tokenizer


def turn_ends(template: ChatTemplate, tokenizer: Tokenizer, chat_template: str | None = None) -> tuple[int, ...]:
    """Token ids, each once; none where a template puts mere text after an answer. Blocks while templates render.

    `chat_template` is the request's, otherwise the server's own are meant.
    """
    found = (tokenizer.leading_marker(ending) for ending in template.answer_endings(chat_template))
    return tuple(dict.fromkeys(token_id for token_id in found if token_id is not None))
