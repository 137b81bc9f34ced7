"""The sequences of a request that another server has generated: their outputs take the path of an engine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo_engine.messages import EngineOutput
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.generation import Choice, Generation, Piece, choices_of
from octavo_engine.server.intake.limits import FEW_TOKENS
from octavo_engine.server.intake.prepare import Prompt

if TYPE_CHECKING:
    from octavo_engine.server.answer.reading import AnswerReading
    from octavo_engine.server.context import ServerContext
    from octavo_engine.server.intake.protocol import ChatBody, CompletionBody
    from octavo_engine.server.intake.token_bodies import Generated, GeneratedChoice, StreamState
    from octavo_engine.server.pools import Pools


class NoOutputs:
    """The outputs of an engine that generates nothing."""

    async def get(self, seconds: float | None = None) -> list[EngineOutput]:  # noqa: ARG002
        return []

    def finish(self, request_id: str, reason: str) -> None:
        """Nothing runs."""

    def abort(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing runs."""


@dataclass(slots=True)
class Recording(Generation):
    """A generation whose tokens are known: the first `take` has them all."""

    given: list[GeneratedChoice] = field(default_factory=list)  # in the order of `choices`
    eos_token_ids: frozenset[int] = frozenset()
    pools: Pools | None = None
    taken: bool = False

    @classmethod
    def of(
        cls,
        context: ServerContext,
        body: CompletionBody | ChatBody,
        prompts: Sequence[list[int]],
        responses: Sequence[Generated],
        reading: AnswerReading | None,
        num_prompt_tokens: int,
    ) -> Recording:
        """The recording of `responses`, one for each of `prompts`."""
        given = [choice for response in responses for choice in response.choices]
        logprobs = max((choice.num_top for choice in given), default=0)
        params = SamplingParams(max_tokens=1, logprobs=logprobs)
        made = [
            Prompt(token_ids, (params,) * max(1, len(response.choices)))
            for token_ids, response in zip(prompts, responses, strict=True)
        ]
        choices = choices_of(context, body, made, reading, None)
        return cls(
            NoOutputs(),
            choices,
            num_prompt_tokens,
            given=given,
            eos_token_ids=frozenset(context.eos_token_ids),
            pools=context.pools,
        )

    async def take(self, seconds: float | None = None) -> list[Piece]:  # noqa: ARG002
        """All pieces, once; those of many tokens are made in a thread."""
        if self.taken:
            return []
        self.taken = True
        if sum(len(given.token_ids or ()) for given in self.given) <= FEW_TOKENS or self.pools is None:
            return self._all()
        return await self.pools.run("decode", self._all)

    def _all(self) -> list[Piece]:
        return [self._piece(*both, "stop") for both in zip(self.choices.values(), self.given, strict=True)]

    def replayed(self, state: StreamState) -> Piece:
        """The piece of the next chunk, after the tokens of `state`, in the pieces in which they came."""
        (choice,), (given,) = self.choices.values(), self.given
        at = 0
        for length in state.output_chunk_lens:
            tokens = state.output_token_ids[at : at + length]
            choice.take(EngineOutput(request_id="", new_token_ids=tokens))
            choice.begun = True
            at += length
        return self._piece(choice, given, None)

    def _piece(self, choice: Choice, given: GeneratedChoice, default_reason: str | None) -> Piece:
        """Tokens that end with a stop string's have no end token, and their text is whole."""
        output = given.output("", default_reason)
        last = output.new_token_ids[-1] if output.new_token_ids else None
        by_token = last is not None and (last == given.stop_reason or last in self.eos_token_ids)
        piece = choice.take(output, ended_by_token=by_token and output.finish_reason == "stop")
        piece.stop_reason = given.stop_reason
        self.num_completed += len(piece.token_ids)
        piece.num_completed = self.num_completed
        return piece
