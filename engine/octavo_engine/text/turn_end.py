"""The tokens that end an assistant's turn, as its chat template writes them.

A model's files name the tokens that end a text. Its chat template may end turns with another token, if it was chosen by
the user or if EOS only ends documents; without that token, a chat would continue into the next turn.
"""

from __future__ import annotations

from octavo_engine.text.chat_template import ChatTemplate
from octavo_engine.text.tokenizer import Tokenizer


def turn_ends(template: ChatTemplate, tokenizer: Tokenizer, chat_template: str | None = None) -> tuple[int, ...]:
    """Token ids, each once; none if a template writes plain text after an answer. Blocks while templates render.

    `chat_template` is the request's; without it, the server's own are used.
    """
    found = (tokenizer.leading_marker(ending) for ending in template.answer_endings(chat_template))
    return tuple(dict.fromkeys(token_id for token_id in found if token_id is not None))
