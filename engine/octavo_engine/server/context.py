"""The objects that every handler needs, composed once when the server starts."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from octavo_engine.config import EngineConfig
from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.errors import RequestError
from octavo_engine.messages import Ready, Vocabulary
from octavo_engine.server.connections import Connections
from octavo_engine.server.intake.limits import FEW_TEXTS, FEW_TOKENS, LONG_TEXT, SHORT_TEXT, Limits, limits_of
from octavo_engine.server.intake.request_body import BodyBudget
from octavo_engine.server.metrics import Metrics
from octavo_engine.server.own_version import own_version
from octavo_engine.server.pools import Kind, Pools, give_memory_back
from octavo_engine.server.running import Running
from octavo_engine.server.served_adapters import ServedAdapters
from octavo_engine.server.stored_responses import StoredResponses
from octavo_engine.server.turns import Turns
from octavo_engine.text.answer_format import AnswerFormat
from octavo_engine.text.chat_template import ChatTemplate
from octavo_engine.text.tokenizer import Tokenizer
from octavo_engine.weights.generation_config import GenerationDefaults

LONGEST_TOKEN = 128  # characters; the longest tokens of vocabularies are runs of 128 spaces


@dataclass
class ServerContext:
    """One served model. Only the counters, the connections and how the server ends change."""

    config: EngineConfig
    client: EngineLink
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    defaults: GenerationDefaults
    turn_ends: tuple[int, ...]  # the chat template's
    ready: Ready
    metrics: Metrics
    answer_format: AnswerFormat | None = None
    """The format of the answers to chats; None: their text is content as it is."""
    turn_stops: tuple[str, ...] = ()
    """The chat template's: strings that the next turn begins with."""
    started: int = field(default_factory=lambda: int(time.time()))
    connections: Connections = field(default_factory=Connections)
    pools: Pools = field(default_factory=Pools)
    turns: Turns = field(default_factory=Turns)
    running: Running = field(default_factory=Running)
    responses: StoredResponses = field(default_factory=StoredResponses)
    adapters: ServedAdapters = field(init=False)
    fingerprint: str = field(init=False)
    """Octavo's version, and a digest of what decides which tokens are drawn."""
    limits: Limits = field(init=False)
    bodies: BodyBudget = field(init=False)
    runs_rows: bool = False
    """True of the server that the rows of batches are sent to."""
    draining: bool = False
    """True once the server is not ready any more; requests that arrive are answered, each the last of its connection.
    """
    refusing: bool = False
    """True once a request that arrives could not be finished in time."""
    sequence: itertools.count[int] = field(default_factory=itertools.count)
    seeds: random.Random = field(init=False)
    _sending_vocabulary: asyncio.Future[None] | None = None
    template_variables: dict[str, Any] = field(init=False)
    """Variables of the chat template that a request may replace (`--default-chat-template-kwargs`)."""
    eos_token_ids: tuple[int, ...] = field(init=False)
    """The tokens that end an answer, unless its request brings a template of its own."""

    def __post_init__(self) -> None:
        self.adapters = ServedAdapters(self.config.model, self.config.adapters, self.client)
        if self.config.adapters.enabled:
            self.metrics.max_adapters = self.config.adapters.max_loras
            self.metrics.adapter_name = self.adapters.name_of
        decisive = (self.config.model, self.config.parallel, self.ready.executor)
        self.fingerprint = f"octavo-{own_version()}-{hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]}"
        self.limits = limits_of(self.config, self.max_model_len)
        self.bodies = BodyBudget(self.limits.all_body_bytes)
        self.seeds = random.Random(self.config.model.seed)
        self.template_variables = msgspec.json.decode(self.config.api.chat_template_kwargs)
        self.eos_token_ids = self.ends(self.turn_ends)

    def ends(self, turn_ends: Sequence[int]) -> tuple[int, ...]:
        """The tokens that end an answer: the tokenizer's, the config's and the generation config's, and `turn_ends`."""
        named = dict.fromkeys((*self.tokenizer.eos_token_ids, *self.defaults.eos_token_ids, *turn_ends))
        return tuple(token_id for token_id in named if token_id < self.vocab_size)

    @property
    def names(self) -> tuple[str, ...]:
        return self.config.model.served_model_names

    @property
    def max_model_len(self) -> int:
        return self.ready.max_model_len

    @property
    def vocab_size(self) -> int:
        return self.ready.vocab_size or self.tokenizer.vocab_size

    def check_model(self, model: str | None) -> str:
        """The name to answer with. Raises RequestError (404) for a model that isn't served."""
        if not model:
            return self.names[0]
        if model not in self.names and self.adapters.get(model) is None:
            names = ", ".join((*self.names, *(adapter.name for adapter in self.adapters.all())))
            raise RequestError(f"The model `{model}` does not exist; this server has {names}", "model", status=404)
        return model

    def adapter_id(self, model: str) -> int:
        """The adapter that a name of `check_model` stands for; 0: none. Raises as that if it was unloaded since."""
        adapter = self.adapters.get(self.check_model(model))
        return 0 if adapter is None else adapter.adapter_id

    async def encode(self, texts: Sequence[str], param: str, *, add_special_tokens: bool) -> list[list[int]]:
        """Token ids of each text; long texts are tokenized in a thread, so that streams continue.

        Raises:
            RequestError: the texts are longer than the server reads of one request.
        """
        length = sum(map(len, texts))
        if length > self.limits.text_characters:
            raise RequestError(
                f"{param} has {length} characters; at most {self.limits.text_characters} are read of one request: "
                "shorten it, or send several requests",
                param,
            )
        if length <= SHORT_TEXT and len(texts) <= FEW_TEXTS:
            await self.turns.take(begun=True)
            return self._encoded(texts, add_special_tokens)
        kind: Kind = "encode_long" if length > LONG_TEXT else "encode"
        return await self.pools.run(kind, self._encoded, texts, add_special_tokens)

    def _encoded(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        left = self.limits.request_tokens
        found = []
        for text in texts:
            found.append(self.tokenizer.encode(text, add_special_tokens=add_special_tokens, most=left))
            left -= len(found[-1])
        if sum(map(len, texts)) > self.limits.text_characters // 4:
            give_memory_back()
        return found

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; of many, in a thread."""
        if len(token_ids) <= FEW_TOKENS:
            await self.turns.take(begun=True)
            return self.tokenizer.decode(token_ids)
        return await self.pools.run("decode", self.tokenizer.decode, token_ids)

    def special_token(self, text: str) -> int | None:
        """The id of the special token that is spelled `text`; None if there is none."""
        token_id = self.tokenizer.token_id(text)
        return token_id if token_id in self.tokenizer.special_token_ids else None

    async def send_vocabulary(self) -> None:
        """Have the engine know the tokens that grammars are about; they are sent once."""
        if self._sending_vocabulary is None:
            self._sending_vocabulary = asyncio.ensure_future(self._send_vocabulary())
        await asyncio.shield(self._sending_vocabulary)

    async def _send_vocabulary(self) -> None:
        tokens = await self.pools.run("encode_long", self.tokenizer.all_token_bytes)
        self.client.send_vocabulary(Vocabulary(tokens, sorted(self.tokenizer.special_token_ids)))

    def check_length(self, text: str, param: str) -> None:
        """Raises RequestError for a text that can't fit the context, before time goes into tokenizing it."""
        if len(text) > self.max_model_len * LONGEST_TOKEN:
            raise RequestError(
                f"This model's maximum context length is {self.max_model_len} tokens, and the prompt has {len(text)} "
                "characters: shorten it, or set truncate_prompt_tokens",
                param,
                code="context_length_exceeded",
            )

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        """Raises RequestError for an id that the model's vocabulary lacks."""
        if token_ids and max(token_ids) >= self.vocab_size:
            raise RequestError(
                f"{param} has the token id {max(token_ids)}, which is out of vocabulary: the ids end at {self.vocab_size - 1}; "
                "leave that token out",
                param,
            )


CONTEXT: web.AppKey[ServerContext] = web.AppKey("context", ServerContext)
