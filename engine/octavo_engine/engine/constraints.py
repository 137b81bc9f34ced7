"""The requests whose answers a grammar constrains or whose reasoning has a budget: compiles grammars, follows each answer, computes a step's masks.

Owns llguidance, which it imports with the first such request. Grammars are compiled in a thread beside the steps, within
the bounds of `LIMITS`; a mask is computed while the step's forward runs. Independent of schedules and text: a token is
what the server's `Vocabulary` says.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo_engine.core.thinking import Thinking
from octavo_engine.engine.grammar_problems import too_costly, unusable
from octavo_engine.messages import EngineOutput, EngineRequest, Vocabulary
from octavo_engine.sampling_params import SamplingParams, ThinkingBudget

if TYPE_CHECKING:
    import llguidance
    from numpy.typing import NDArray

CACHED_GRAMMARS = 64
CACHED_CHARACTERS = 4 * 2**20  # of all of them together
NICE = 10  # of the compiling thread: steps come first
# Of llguidance's `LLParserLimits`: what a grammar may take to compile, and each of its masks to compute.
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "max_grammar_size": 200_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,  # 1 to 2 KB each
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "verbose_errors": False,
}
NO_VOCABULARY = "the server sent no vocabulary for its grammar"


class Constraints:
    """The grammars in use. Every method is called by the engine core's thread.

    `vocab_size` is the model's, None: the vocabulary's. A mask has as many bits, rounded up to whole words.
    """

    def __init__(self, vocab_size: int | None) -> None:
        self._vocab_size = vocab_size
        self._vocabulary: Vocabulary | None = None
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()  # by text, the latest used last
        self._compiling: dict[str, tuple[EngineRequest, Future[llguidance.LLMatcher]]] = {}  # by request id, in order
        self._answers: dict[str, Answer] = {}
        self._compiler = ThreadPoolExecutor(1, "compile grammar", initializer=_yield_to_steps)
        self._masker = ThreadPoolExecutor(1, "grammar masks")

    @property
    def num_compiling(self) -> int:
        """The number of requests that wait for their grammar."""
        return len(self._compiling)

    @property
    def adapters(self) -> set[int]:
        """The adapters of the requests that wait for their grammar."""
        return {request.adapter_id for request, _ in self._compiling.values() if request.adapter_id}

    @property
    def has_compiled(self) -> bool:
        """True if `take_compiled` would return a request."""
        return any(future.done() for _, future in self._compiling.values())

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Take the tokens of all grammars to come."""
        self._vocabulary = vocabulary
        self._vocab_size = self._vocab_size or len(vocabulary.tokens)

    def compile(self, request: EngineRequest) -> None:
        """Compile the grammar of a request, which `take_compiled` then returns."""
        future = self._compiler.submit(self._matcher, request.sampling.grammar)
        self._compiling[request.request_id] = request, future

    def discard(self, request_id: str) -> bool:
        """Forget a request whose grammar is being compiled; False if there is no such request."""
        return self._compiling.pop(request_id, None) is not None

    def take_compiled(self) -> Iterator[tuple[EngineRequest, str | None]]:
        """The requests whose grammars are compiled, and why one can't be used, in a sentence; None if it can."""
        for request_id in [request_id for request_id, (_, future) in self._compiling.items() if future.done()]:
            request, future = self._compiling.pop(request_id)
            matcher = future.result()
            problem = matcher.get_error() if matcher.is_error() else None
            if problem is None:
                self._answers[request_id] = Answer(matcher, request.sampling)
                yield request, None
            else:
                yield request, unusable(problem)

    def thinking(self, budget: ThinkingBudget) -> Thinking:
        """A new answer's use of its budget of reasoning."""
        assert self._vocabulary is not None, NO_VOCABULARY
        return Thinking(budget, self._vocabulary.tokens)

    def start_masks(self, request_ids: Sequence[str], forced: Mapping[str, int]) -> Future[bytes]:
        """Compute masks in a thread: a row each of `request_ids`, one bit a token, in whole 32-bit words.

        Where a token is `forced`, the row allows it alone, unless the grammar does not allow it.
        """
        answers = [self._answers.get(request_id) for request_id in request_ids]
        return self._masker.submit(self._masks, answers, [forced.get(request_id) for request_id in request_ids])

    def accept(self, outputs: Iterable[EngineOutput]) -> list[EngineOutput]:
        """Follow the tokens of a step's outputs; these, with the reason where a grammar left nothing to draw."""
        if not self._answers:
            return list(outputs)
        return [self._accepted(output) for output in outputs]

    def end(self, outputs: Iterable[EngineOutput]) -> None:
        """Forget the requests that have ended."""
        for output in outputs if self._answers else ():
            if output.finish_reason is not None:
                self._answers.pop(output.request_id, None)

    def close(self) -> None:
        """End the threads; what they do now is not waited for."""
        for pool in (self._compiler, self._masker):
            pool.shutdown(wait=False, cancel_futures=True)

    def _accepted(self, output: EngineOutput) -> EngineOutput:
        answer = self._answers.get(output.request_id)
        if answer is None:
            return output
        if output.finish_reason is None:
            answer.accept(output.new_token_ids)
        elif output.error is not None and (problem := answer.problem):
            return EngineOutput(
                request_id=output.request_id,
                new_token_ids=[],
                finish_reason="error",
                error=too_costly(problem),
                refused=True,
            )
        return output

    def _masks(self, answers: Sequence[Answer | None], forced: Sequence[int | None]) -> bytes:
        assert self._vocab_size is not None, NO_VOCABULARY
        words, table_words = (
            (self._vocab_size + 31) // 32,
            (self._vocab_size + 1 + 31) // 32,
        )  # the end's token is one more
        masks = np.full((len(answers), table_words), 0xFFFF_FFFF, np.uint32)
        for row, answer, token in zip(masks, answers, forced, strict=True):
            if answer is not None:  # else it has ended, and what is drawn is void, or it has no grammar
                answer.fill(row)
            if token is not None and row[token >> 5] >> (token & 31) & 1:
                row[:] = 0
                row[token >> 5] = 1 << (token & 31)
        masks[:, self._vocab_size >> 5] &= ~np.uint32(1 << (self._vocab_size & 31))
        return masks[:, :words].tobytes()

    def _matcher(self, grammar: str) -> llguidance.LLMatcher:
        """A matcher at the beginning of an answer. In the compiling thread."""
        import llguidance  # noqa: PLC0415 — few servers need it

        if self._tokenizer is None:
            assert self._vocabulary is not None, NO_VOCABULARY
            assert self._vocab_size is not None
            self._tokenizer = TokenTable(self._vocabulary, self._vocab_size).build()
        known = self._compiled.get(grammar)
        if known is None:
            limits = llguidance.LLParserLimits(**LIMITS)
            known = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
            if known.is_error():
                return known
            self._compiled[grammar] = known
            while len(self._compiled) > CACHED_GRAMMARS or sum(map(len, self._compiled)) > CACHED_CHARACTERS:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(grammar)
        return known.deep_copy()


class Answer:
    """One request's answer so far, as its grammar sees it."""

    def __init__(self, matcher: llguidance.LLMatcher, sampling: SamplingParams) -> None:
        self._matcher = matcher
        self._ends = np.array([*sampling.eos_token_ids, *sampling.stop_token_ids], np.uint32)

    @property
    def problem(self) -> str:
        """The reason why no further token can be allowed; empty if one can."""
        return self._matcher.get_error()

    def accept(self, token_ids: list[int]) -> None:
        """Follow tokens that were drawn."""
        self._matcher.consume_tokens(token_ids)

    def fill(self, row: NDArray[np.uint32]) -> None:
        """Set the bits of the tokens that may come next; none once the grammar has taken too much work.

        The request's own stop tokens end the answer, wherever the grammar lets it end.
        """
        if not self._matcher.is_error():
            self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._matcher.is_error():
            row[:] = 0
        elif self._matcher.is_accepting():
            np.bitwise_or.at(row, self._ends >> 5, np.uint32(1) << (self._ends & 31))


class TokenTable:
    """A vocabulary as llguidance reads it: the attributes are those that `LLTokenizer` asks a tokenizer for.

    A token that no model draws stands for the end of an answer: which tokens end one depends on the request.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        padding = [b""] * (vocab_size - len(vocabulary.tokens))
        self.tokens = [*vocabulary.tokens[:vocab_size], *padding, b"<end of the answer>"]
        self.eos_token_id = vocab_size
        self.special_token_ids = [*(i for i in vocabulary.special_token_ids if i < vocab_size), vocab_size]
        self._built: llguidance.LLTokenizer | None = None

    def build(self) -> llguidance.LLTokenizer:
        """The tokenizer of llguidance for this vocabulary: takes about a second for 150,000 tokens."""
        import llguidance  # noqa: PLC0415 — few servers need it

        self._built = llguidance.LLTokenizer(self)  # type: ignore[arg-type]
        return self._built

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text that the grammar leaves no choice about: the longest first."""
        return [] if self._built is None else self._built.greedy_tokenize(text)


def _yield_to_steps() -> None:
    """Lower this thread's priority below that of the threads that compute steps."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
