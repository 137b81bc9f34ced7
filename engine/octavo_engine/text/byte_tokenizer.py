"""A tokenizer for a model that has none: each byte of a text is a token. For `--load-format dummy`, whose answers mean
nothing anyway.
"""

from __future__ import annotations

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from octavo_engine.text.special_tokens import SpecialTokens
from octavo_engine.text.tokenizer import Tokenizer

NUM_TOKENS = 256
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def byte_tokenizer() -> Tokenizer:
    """Token ids are the 256 bytes; ids beyond them have no text. Its chat template writes one line a message."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, SpecialTokens({}, {}, ()), {"default": TEMPLATE})
