"""Text to token ids and back, from a tokenizer.json or out of a GGUF.

Owns the vocabulary and the bytes of each token. Chat templates are only held here, because they are in the same files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ModelLoadError, RequestError
from octavo_engine.text import gguf_tokenizer, wordpiece
from octavo_engine.text.pieces import spelling_of
from octavo_engine.text.special_tokens import SpecialTokens, set_bos_and_eos
from octavo_engine.weights.gguf import read_header
from octavo_engine.weights.json_files import read_object, read_text
from octavo_models import ModelError

VOCABULARY = "vocab.txt"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """One model's tokenizer. Immutable once built; every method may be called from any thread.

    `encode` of a long text takes about 0.2 s a megabyte and lets go of the GIL: run it in a thread.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special: SpecialTokens,
        chat_templates: Mapping[str, str] | None = None,
        response_template: Any = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """`response_template` is what the tokenizer's config says of answers, as it stands there; `config` is all of it."""
        self._backend = backend
        self._spelling = spelling_of(backend.decoder)
        self._bytes: dict[int, bytes] = {}
        self.special_tokens = special.texts  # by role, as chat templates name them
        self.bos_token_id = special.ids.get("bos_token")
        self.eos_token_id = special.ids.get("eos_token")
        self.pad_token_id = special.ids.get("pad_token")
        self.eos_token_ids = special.eos_ids  # the file's own; a generation_config may name more
        self.chat_templates = dict(chat_templates or {})  # by name; the usual one is `default`
        self.response_template = response_template
        self.config = dict(config or {})
        added = backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(index for index, token in added.items() if token.special)
        self._markers = {
            token.content: index for index, token in added.items() if token.special or _is_tag(token.content)
        }
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)

    @property
    def strips_space(self) -> bool:
        """True if the tokenizer adds a space to the start of a text (SentencePiece), which is no part of the text."""
        return self._spelling.strips_space

    @property
    def adds_bos(self) -> bool:
        """True if the tokenizer puts BOS before a text by itself."""
        return self.bos_token_id is not None and self.encode("")[:1] == [self.bos_token_id]

    def encode(self, text: str, *, add_special_tokens: bool = True, most: int | None = None) -> list[int]:
        """Token ids of `text`; special tokens spelled out in it are recognized, as in transformers and vLLM.

        Raises RequestError for half of a surrogate pair, which JSON can spell and no encoding has, and for more than
        `most` tokens.
        """
        # The batch call releases the GIL and keeps no offsets: twice as fast as `encode` on a long text.
        try:
            encoding = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
        except TypeError:
            raise RequestError("the text holds half of a surrogate pair, which is no character: leave it out") from None
        if most is not None and len(encoding) > most:
            raise RequestError(
                f"the text has {len(encoding)} tokens, and {most} are left of what is read of one request: shorten it"
            )
        token_ids: list[int] = encoding.ids
        return token_ids

    def offsets(self, text: str, *, add_special_tokens: bool) -> list[tuple[int, int]]:
        """The beginning and the end in `text`, in characters, of each token of `encode`. Raises RequestError as it does."""
        try:
            found: list[tuple[int, int]] = self._backend.encode(text, add_special_tokens=add_special_tokens).offsets
        except TypeError:
            raise RequestError("the text holds half of a surrogate pair, which is no character: leave it out") from None
        return found

    def encode_within(self, text: str, most: int) -> list[int]:
        """Token ids of `text`, special tokens included, of which its last ones are left out beyond `most` in all.

        Raises RequestError as `encode` does.
        """
        encoding = self._plain(text)
        encoding.truncate(max(most - self._backend.num_special_tokens_to_add(False), 0))
        token_ids: list[int] = self._backend.post_process(encoding).ids
        return token_ids

    def encode_pair(self, first: str, second: str, most: int | None = None) -> tuple[list[int], int]:
        """Token ids of two texts as the tokenizer joins them, special tokens included, and the position where token type
        1 begins; 0 where it gives both the same type. Beyond `most` in all, tokens of the longer text are left out.

        Raises RequestError as `encode` does.
        """
        one, two = self._plain(first), self._plain(second)
        if most is not None:
            left = max(most - self._backend.num_special_tokens_to_add(True), 0)
            of_one = max(min(len(one), left - min(len(two), left // 2)), 0)
            one.truncate(of_one)
            two.truncate(left - of_one)
        joined = self._backend.post_process(one, two)
        return joined.ids, next((i for i, kind in enumerate(joined.type_ids) if kind), 0)

    def _plain(self, text: str) -> tokenizers.Encoding:
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except TypeError:
            raise RequestError("the text holds half of a surrogate pair, which is no character: leave it out") from None

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of `token_ids`: bytes that are not UTF-8 become U+FFFD, ids that the vocabulary lacks nothing."""
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        data = b"".join(self.token_bytes(index) for index in token_ids if index not in skipped)
        text = data.decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strips_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; empty for an id that the vocabulary lacks."""
        data = self._bytes.get(token_id)
        if data is None:
            piece = self.piece(token_id)
            if piece is None:
                return b""
            data = self._bytes[token_id] = self._spelling.to_bytes(piece)
        return data

    def all_token_bytes(self) -> list[bytes]:
        """`token_bytes` of every token; a special token's is its spelling. Takes a second for 256,000 tokens."""
        pieces = map(self.piece, range(self.vocab_size))
        return [
            b""
            if piece is None
            else piece.encode()
            if index in self.special_token_ids
            else self._spelling.to_bytes(piece)
            for index, piece in enumerate(pieces)
        ]

    def token_text(self, token_id: int) -> str:
        """A token's own text, as logprobs show it; part of a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_id(self, piece: str) -> int | None:
        """The id of a token by its spelling in the vocabulary, such as `<|im_end|>`."""
        index: int | None = self._backend.token_to_id(piece)
        return index

    def leading_marker(self, text: str) -> int | None:
        """The special token that `text` begins with, or one that is spelled like a tag (`<|im_end|>`), else None."""
        spelled = max((marker for marker in self._markers if text.startswith(marker)), key=len, default=None)
        return None if spelled is None else self._markers[spelled]

    def special_tokens_in(self, texts: Iterable[str]) -> frozenset[int]:
        """The special tokens whose spelling is part of one of `texts`."""
        return frozenset(
            index
            for index in self.special_token_ids
            if (piece := self.piece(index)) and any(piece in text for text in texts)
        )

    def piece(self, token_id: int) -> str | None:
        """A token's spelling in the vocabulary, such as `Ġhello`."""
        return self._backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None


def _is_tag(text: str) -> bool:
    # Not every model declares the tokens of its chat template special.
    return text.startswith("<") and text.endswith(">")


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """The model's tokenizer from tokenizer.json where there is one, else out of its GGUF.

    Raises ModelLoadError, naming the file, where there is none or it can't be used.
    """
    if files.tokenizer is not None and files.tokenizer.name == VOCABULARY:
        return load_wordpiece(files.tokenizer)
    if files.tokenizer is not None:
        return load_tokenizer_json(files.tokenizer, files.chat_template)
    if files.weights_format == "gguf":
        return _load_gguf(files.weights[0], files.chat_template)
    raise ModelLoadError(f"{files.folder} has no tokenizer.json: pass --tokenizer the folder or the model that has one")


def _load_gguf(path: Path, chat_template: Path | None) -> Tokenizer:
    metadata = read_header(path).metadata
    templates = gguf_tokenizer.chat_templates(metadata) | _template_files(None, chat_template)
    try:
        backend, special = gguf_tokenizer.build_tokenizer(metadata)
        return Tokenizer(backend, special, templates)
    except (ModelLoadError, ModelError) as error:
        raise ModelLoadError(f"{path}: {error}") from error


def load_wordpiece(path: Path) -> Tokenizer:
    """BERT's tokenizer from its vocab.txt and the tokenizer_config.json beside it. Raises ModelLoadError."""
    beside = path.with_name("tokenizer_config.json")
    config = read_object(beside) if beside.is_file() else {}
    try:
        return Tokenizer(*wordpiece.build_tokenizer(read_text(path).splitlines(), config))
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def load_tokenizer_json(path: Path, chat_template: Path | None = None) -> Tokenizer:
    """A tokenizer from tokenizer.json and the tokenizer_config.json beside it."""
    try:
        backend = tokenizers.Tokenizer.from_str(read_text(path))
    except ModelLoadError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ModelLoadError(f"{path} can't be read as a tokenizer: {error}; fetch the file again") from error
    backend.no_padding()
    backend.no_truncation()
    beside = path.with_name("tokenizer_config.json")
    config = read_object(beside) if beside.is_file() else {}
    own_templates = _template_files(None, chat_template)
    try:
        special = _apply_config(backend, config)
        templates = _template_files(config.get("chat_template"), None) | own_templates
        return Tokenizer(backend, special, templates, config.get("response_template"), config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"{beside}: it isn't a tokenizer's config: {error!r}") from error
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def _apply_config(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> SpecialTokens:
    texts = {role: _token_text(config[role]) for role in ROLES if config.get(role) is not None}
    declared = config.get("added_tokens_decoder")
    present = backend.get_added_tokens_decoder()
    for index, fields in sorted((int(key), value) for key, value in (declared or {}).items()):
        token = _added_token(fields)
        if repr(present.get(index)) != repr(token):
            backend.add_tokens([token])
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    named = [AddedToken(text, normalized=False, special=True) for text in texts.values() if text not in known]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    contents = [_token_text(token) for token in (extra.values() if isinstance(extra, dict) else extra)]
    named += [AddedToken(text, normalized=False, special=True) for text in contents if text not in known]
    if named:
        backend.add_tokens(named)
    special = SpecialTokens.by_text(backend, texts)
    # As transformers does: an explicit flag wins over the post-processor of the file.
    if "add_bos_token" in config or "add_eos_token" in config or backend.post_processor is None:
        add_bos, add_eos = bool(config.get("add_bos_token")), bool(config.get("add_eos_token"))
        set_bos_and_eos(backend, special, add_bos=add_bos, add_eos=add_eos)
    return special


def _token_text(value: Any) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ModelLoadError(f"tokenizer_config.json names a special token that is not a string: {value!r}")
    return text


def _added_token(fields: Any) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(_token_text(fields), **{flag: bool(fields[flag]) for flag in flags if flag in fields})


def _template_files(configured: Any, path: Path | None) -> dict[str, str]:
    """Chat templates by name: a file of their own wins over what the tokenizer's config says."""
    templates: dict[str, str] = {}
    if isinstance(configured, str):
        templates["default"] = configured
    elif isinstance(configured, list):
        for entry in configured:
            if not isinstance(entry, dict) or not {"name", "template"} <= entry.keys():
                raise ValueError("an entry of chat_template has no name or no template")
            templates[entry["name"]] = entry["template"]
    if path is not None and path.suffix == ".json":
        templates |= _template_files(read_object(path).get("chat_template"), None)
    elif path is not None:
        templates["default"] = read_text(path)
    return templates
