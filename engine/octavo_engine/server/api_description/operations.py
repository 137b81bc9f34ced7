"""The bodies and answers of handlers, as far as their types say them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp.typedefs import Handler

from octavo_engine.server.answer import messages as anthropic
from octavo_engine.server.answer.pooling_responses import Classification, Embeddings, PoolingAnswer, Ranking, Scores
from octavo_engine.server.answer.response_items import Response
from octavo_engine.server.answer.responses import ChatCompletion, WholeCompletion
from octavo_engine.server.answer.token_responses import GenerateRequest
from octavo_engine.server.intake.batches import BatchBody
from octavo_engine.server.intake.decisions import DecisionBody
from octavo_engine.server.intake.messages import MessagesBody, PromptBody
from octavo_engine.server.intake.pooling_bodies import ClassifyBody, EmbeddingBody, PoolBody, RerankBody, ScoreBody
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from octavo_engine.server.intake.responses import ResponsesBody
from octavo_engine.server.intake.token_bodies import (
    AbortBody,
    DerenderChatBody,
    DerenderCompletionBody,
    GenerateBody,
    Generated,
)
from octavo_engine.server.routes import (
    adapters,
    batched_chats,
    batches,
    chat_completions,
    completions,
    decisions,
    derendering,
    description,
    development,
    embeddings,
    files,
    generative_scoring,
    invocations,
    messages,
    rendering,
    responses,
    scores,
    server_state,
    tokenization,
    tokens,
)
from octavo_engine.server.stored_batches import objects

TEXT = {"type": "string"}
OBJECT = {"type": "object"}
BYTES = {"type": "string", "format": "binary"}
SECONDS = {"type": "integer", "minimum": 1}
UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": BYTES,
        "purpose": {"const": "batch"},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": SECONDS,
    },
}
PAGE: dict[str, dict[str, Any]] = {
    "after": TEXT,
    "limit": {"type": "integer", "minimum": 1},
    "order": {"enum": ["asc", "desc"]},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """The types of one handler's body and answer; a dictionary is a JSON schema as it is."""

    body: type | tuple[type, ...] | None = None  # several: one of them
    answer: Any = None  # of status 200; a type, list[type], or a schema
    form: dict[str, Any] | None = None  # a body that is a form
    media: str = "application/json"  # of the answer
    streams: bool = False  # where the body asks for it
    query: Mapping[str, dict[str, Any]] | None = None


OPERATIONS: Mapping[Handler, Operation] = {
    server_state.health: Operation(answer=server_state.Status),
    server_state.show_version: Operation(answer=server_state.Version),
    server_state.load: Operation(answer=server_state.Load),
    server_state.show_metrics: Operation(answer=TEXT, media="text/plain"),
    server_state.kv_event_sources: Operation(answer=OBJECT),
    server_state.models: Operation(answer=server_state.ModelList),
    server_state.model: Operation(answer=server_state.ModelCard),
    completions.completions: Operation(CompletionBody, WholeCompletion, streams=True),
    chat_completions.chat_completions: Operation(ChatBody, ChatCompletion, streams=True),
    batched_chats.batched_chats: Operation(batched_chats.BatchedChatsBody, ChatCompletion),
    responses.responses: Operation(ResponsesBody, Response, streams=True),
    responses.get_response: Operation(answer=Response),
    responses.cancel_response: Operation(answer=Response),
    responses.delete_response: Operation(answer=responses.Deleted),
    messages.messages: Operation(MessagesBody, anthropic.Message, streams=True),
    messages.count_tokens: Operation(PromptBody, anthropic.TokenCount),
    rendering.render_completions: Operation(CompletionBody, list[GenerateRequest]),
    rendering.render_chat: Operation(ChatBody, GenerateRequest),
    rendering.render_messages: Operation(MessagesBody, GenerateRequest),
    rendering.render_responses: Operation(ResponsesBody, GenerateRequest),
    derendering.derender_completions: Operation(DerenderCompletionBody, WholeCompletion),
    derendering.derender_chat: Operation(DerenderChatBody, ChatCompletion),
    tokens.generate: Operation(GenerateBody, Generated, streams=True),
    tokens.abort_requests: Operation(AbortBody, server_state.Status),
    files.upload_file: Operation(form=UPLOAD, answer=objects.StoredFile),
    files.files: Operation(answer=objects.FileList, query={**PAGE, "purpose": TEXT}),
    files.file: Operation(answer=objects.StoredFile),
    files.delete_file: Operation(answer=objects.Deleted),
    files.file_content: Operation(answer=BYTES, media="application/octet-stream"),
    batches.create_batch: Operation(BatchBody, objects.Batch),
    batches.batches: Operation(answer=objects.BatchList, query=PAGE),
    batches.batch: Operation(answer=objects.Batch),
    batches.cancel_batch: Operation(answer=objects.Batch),
    embeddings.embeddings: Operation(EmbeddingBody, Embeddings),
    embeddings.pooling: Operation(PoolBody, PoolingAnswer),
    embeddings.classify: Operation(ClassifyBody, Classification),
    scores.score: Operation(ScoreBody, Scores),
    scores.rerank: Operation(RerankBody, Ranking),
    tokenization.tokenize: Operation(TokenizeBody, tokenization.Tokens),
    tokenization.detokenize: Operation(DetokenizeBody, tokenization.Text),
    tokenization.tokenizer_info: Operation(answer=OBJECT),
    generative_scoring.generative_scoring: Operation(generative_scoring.ScoringBody, Scores),
    decisions.decisions: Operation(DecisionBody, decisions.Decisions),
    invocations.invocations: Operation(
        (ChatBody, CompletionBody, EmbeddingBody, RerankBody, ScoreBody), OBJECT, streams=True
    ),
    adapters.load_adapter: Operation(adapters.LoadAdapterBody, TEXT, media="text/plain"),
    adapters.unload_adapter: Operation(adapters.UnloadAdapterBody, TEXT, media="text/plain"),
    description.openapi: Operation(answer=OBJECT),
    description.docs: Operation(answer=TEXT, media="text/html"),
    development.pause: Operation(
        answer=server_state.Status,
        query={"mode": {"enum": ["abort", "wait", "keep"]}, "clear_cache": {"type": "boolean"}},
    ),
    development.resume: Operation(answer=server_state.Status),
    development.is_paused: Operation(answer=development.IsPaused),
    development.server_info: Operation(answer=OBJECT, query={"config_format": {"enum": ["text", "json"]}}),
    development.is_sleeping: Operation(answer=development.IsSleeping),
    development.reset_prefix_cache: Operation(),
    development.reset_other_cache: Operation(),
    development.sleep: Operation(),
    development.wake_up: Operation(),
}
