"""The outputs of a beam search: the engine extends all beams by a token, step after step, and the best answers come at once.

Each step submits a request of one token for each live beam. Its prompt is the beam so far, whose full blocks the prefix cache
has. Between steps others run as they do between any requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.core_client.output_stream import OutputStream
from octavo_engine.messages import EngineOutput, EngineRequest, TokenLogprob
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.beams.search import Beam, BeamSearch


@dataclass(slots=True)
class PromptBeams:
    """The search behind one prompt. `request` is what its first choice would have sent, `request_ids` those of its choices."""

    request: EngineRequest
    request_ids: list[str]
    search: BeamSearch
    with_logprobs: bool
    num_cached: int = 0


class BeamOutputs:
    """The `Outputs` of choices that are beams: those of each prompt are `len(request_ids)` best answers, the best first.

    The first step is submitted at once, and admitted as any request; further steps are not refused for a full queue.
    """

    def __init__(self, client: EngineLink, requests: Sequence[Sequence[EngineRequest]], length_penalty: float) -> None:
        """`requests[i]` are the requests of one prompt's choices, in order.

        Raises:
            RequestError: the queue is full.
            EngineDeadError: the engine is gone.
        """
        self._client = client
        self._prompts = [_beams_of(choices, length_penalty) for choices in requests]
        self._step = 0
        self._answered = False
        self._aborted = False
        self._stream, self._asked = self._submit()

    async def get(self, seconds: float | None = None) -> list[EngineOutput]:  # noqa: ARG002 — beams are not streamed
        """Every choice's only output, once all are known; then nothing. Raises EngineDeadError."""
        if self._answered:
            return []
        while self._asked:
            error = await self._advance()
            if error is not None:
                self._answered = True
                return [msgspec.structs.replace(error, request_id=self._prompts[0].request_ids[0])]
            if self._aborted:
                break
            self._stream, self._asked = self._submit()
        self._answered = True
        return [output for prompt in self._prompts for output in _outputs_of(prompt, aborted=self._aborted)]

    def finish(self, request_id: str, reason: str) -> None:
        """Nothing: a choice has ended with its only output."""

    def abort(self) -> None:
        """End the search; the best answers so far are answered, with the reason "abort"."""
        self._aborted = True
        self._stream.abort()

    def close(self) -> None:
        """End the search, unanswered."""
        self._answered = True
        self._stream.close()

    def _submit(self) -> tuple[OutputStream, dict[str, tuple[PromptBeams, int]]]:
        """Send the next step: a request for each live beam, and by its id whose it is."""
        requests, asked = [], {}
        for prompt in self._prompts:
            if prompt.search.finished:
                continue
            for i, beam in enumerate(prompt.search.live):
                name = f"{prompt.request.request_id}.{self._step}.{i}"
                token_ids = [*prompt.request.prompt_token_ids, *beam.token_ids]
                requests.append(msgspec.structs.replace(prompt.request, request_id=name, prompt_token_ids=token_ids))
                asked[name] = prompt, i
        self._step += 1
        return self._client.submit(requests, admitted=self._step > 1), asked

    async def _advance(self) -> EngineOutput | None:
        """Wait for a step and extend the beams; the output of a request that has failed, which ends the search."""
        offers: dict[str, TokenLogprob] = {}
        while outputs := await self._stream.get():
            for output in outputs:
                if output.finish_reason == "error":
                    self._stream.close()
                    return output
                if output.finish_reason == "abort":
                    self._aborted = True
                if output.logprobs:
                    offers[output.request_id] = output.logprobs[0]
                prompt, _ = self._asked[output.request_id]
                prompt.num_cached = prompt.num_cached or (output.num_cached_tokens if self._step == 1 else 0)
        if not self._aborted:
            self._extend(offers)
        return None

    def _extend(self, offers: Mapping[str, TokenLogprob]) -> None:
        of_prompt: dict[int, list[TokenLogprob]] = {}
        for name, (prompt, _) in self._asked.items():
            of_prompt.setdefault(id(prompt), []).append(offers[name])
        for prompt in self._prompts:
            if id(prompt) in of_prompt:
                prompt.search.advance(of_prompt[id(prompt)])


def _beams_of(choices: Sequence[EngineRequest], length_penalty: float) -> PromptBeams:
    """The search for one prompt's answers. Of its sampling only what ends an answer counts: nothing is drawn."""
    asked = choices[0].sampling
    ends = (*asked.stop_token_ids, *(() if asked.ignore_eos else asked.eos_token_ids))
    search = BeamSearch(len(choices[0].prompt_token_ids), len(choices), asked.max_tokens, ends, length_penalty)
    step = SamplingParams(max_tokens=1, temperature=0.0, logprobs=max(search.num_offered, asked.logprobs or 0))
    request = msgspec.structs.replace(choices[0], sampling=step)
    names = [choice.request_id for choice in choices]
    return PromptBeams(request, names, search, with_logprobs=asked.logprobs is not None)


def _outputs_of(prompt: PromptBeams, *, aborted: bool) -> Iterator[EngineOutput]:
    """The only output of each choice. Choices that no beam is left for, after an abort, are empty."""
    beams = prompt.search.best()
    for request_id, beam in itertools.zip_longest(prompt.request_ids, beams, fillvalue=Beam()):
        assert isinstance(request_id, str)
        assert isinstance(beam, Beam)
        reason = "stop" if beam.ended else "abort" if aborted else "length"
        yield EngineOutput(
            request_id=request_id,
            new_token_ids=list(beam.token_ids),
            finish_reason=reason,
            stop_token_id=beam.token_ids[-1] if beam.ended else None,
            logprobs=list(beam.entries) if prompt.with_logprobs else None,
            num_cached_tokens=prompt.num_cached,
        )
