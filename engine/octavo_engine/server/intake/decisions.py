"""Questions about a state, each answered by the probability of a label: their kinds, prompts and answers, as in vLLM."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.protocol import NULL_IS_ABSENT, RequestBody

MAX_QUESTIONS = 64
Options = dict[str, str | None]  # a description, or none, by name


class DecisionBody(RequestBody):
    """POST /v1/systemone."""

    generates: ClassVar[bool] = True

    state: Any
    questions: dict[str, dict[str, Any]]
    instructions: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), NULL_IS_ABSENT] = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of question: its labels in the order of its options, and what its prompt and its answer say."""

    labels: tuple[str, ...]
    reply: str
    options: Callable[[str, Any], Options]
    result: Callable[[Options, Sequence[float]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its options, each with a label."""

    name: str
    kind: Literal["choice", "noul", "score"]
    text: str
    options: Options

    @property
    def labels(self) -> tuple[str, ...]:
        return KINDS[self.kind].labels[: len(self.options)]

    def prompt(self, body: DecisionBody) -> str:
        """The text that the model reads: the instructions, the state, the question, and its options by their labels."""
        state = body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
        lines = [body.instructions or "", f"State: {state}", f"Question: {self.text}" if self.text else ""]
        for label, (option, description) in zip(self.labels, self.options.items(), strict=True):
            named = label if self.kind == "noul" else f"{label}: {option}"
            between = ": " if self.kind == "noul" else " - "
            lines.append(named + (between + description if description else ""))
        return "\n".join(line for line in [*lines, KINDS[self.kind].reply] if line)

    def answer(self, logprobs: Sequence[float]) -> tuple[dict[str, Any], float]:
        """The answer, and the probability of all labels together, by the log-probability of each label."""
        mass = sum(math.exp(logprob) for logprob in logprobs)
        best = max(logprobs)
        weights = [math.exp(logprob - best) for logprob in logprobs]
        shares = [weight / sum(weights) for weight in weights]
        return {
            "type": self.kind,
            **KINDS[self.kind].result(self.options, shares),
            "confidence": max(shares) * mass,
        }, mass


def read_questions(body: DecisionBody) -> list[Question]:
    """The questions of a body. Raises RequestError, naming the question, for one that can't be asked."""
    if (body.chat_template_kwargs or {}).get("enable_thinking"):
        raise RequestError(
            "a decision is the first token of the answer, so thinking must be off: leave enable_thinking out",
            "chat_template_kwargs.enable_thinking",
        )
    if not 0 < len(body.questions) <= MAX_QUESTIONS:
        raise RequestError(
            f"questions has {len(body.questions)} entries; send one or more, at most {MAX_QUESTIONS}", "questions"
        )
    return [_question(name, given) for name, given in body.questions.items()]


def _question(name: str, given: Mapping[str, Any]) -> Question:
    where = f"questions.{name[:40]}"
    if unknown := given.keys() - {"type", "instructions", "criteria"}:
        raise RequestError(f"{where} has unknown field(s) {', '.join(sorted(unknown))[:80]}: leave them out", where)
    kind = given.get("type")
    if kind not in KINDS:
        raise RequestError(f"{where}.type is {str(kind)[:40]!r}; it must be one of {', '.join(KINDS)}", f"{where}.type")
    options = KINDS[kind].options(where, given.get("criteria"))
    if len(options) > len(KINDS[kind].labels):
        raise RequestError(
            f"{where} has {len(options)} options; there are labels for at most {len(KINDS[kind].labels)} options", where
        )
    text = given.get("instructions")
    return Question(name, kind, "" if text is None else str(text), options)


def _choices(where: str, criteria: Any) -> Options:
    if not isinstance(criteria, dict) or not criteria:
        raise RequestError(f"{where}.criteria must map each option to a description or null", f"{where}.criteria")
    return {str(name): None if text is None else str(text) for name, text in criteria.items()}


def _sides(where: str, criteria: Any) -> Options:
    if criteria is not None and (not isinstance(criteria, dict) or not criteria.keys() <= {"true", "false"}):
        raise RequestError(f"{where}.criteria must be an object with true and false", f"{where}.criteria")
    sides = criteria or {}
    return {
        label: None if sides.get(key) is None else str(sides[key]) for label, key in (("yes", "true"), ("no", "false"))
    }


def _levels(where: str, criteria: Any) -> Options:
    if not isinstance(criteria, list) or len(criteria) < 2 or len({str(level) for level in criteria}) < len(criteria):
        raise RequestError(f"{where}.criteria must be an ordered list of levels, two or more", f"{where}.criteria")
    return {str(level): None for level in criteria}


def _chosen(options: Options, shares: Sequence[float]) -> dict[str, Any]:
    by_name = dict(zip(options, shares, strict=True))
    return {"choice": max(by_name, key=lambda name: by_name[name]), "probabilities": by_name}


def _side(_options: Options, shares: Sequence[float]) -> dict[str, Any]:
    return {"noul": shares[0], "probabilities": {"yes": shares[0], "no": shares[1]}}


def _level(options: Options, shares: Sequence[float]) -> dict[str, Any]:
    return {
        "score": sum(level * share for level, share in enumerate(shares)),
        "legend": {str(level): name for level, name in enumerate(options)},
        "probabilities": {str(level): share for level, share in enumerate(shares)},
    }


KINDS = {
    "choice": Kind(tuple(string.ascii_uppercase), "Answer with the letter of one option only.", _choices, _chosen),
    "noul": Kind(("yes", "no"), "Answer with yes or no only.", _sides, _side),
    "score": Kind(tuple(string.digits), "Answer with the number of one level only.", _levels, _level),
}
