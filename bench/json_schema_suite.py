"""JSON Schema's public test suite against the grammars that answers are held to.

    python -m bench.json_schema_suite            # the suite as the sdist of `jsonschema` ships it, fetched once with pip
    python -m bench.json_schema_suite --suite FOLDER --shown 50

For each schema: it is refused by name, or supported. Of a supported one the grammar must take what the suite calls valid
and nothing that it calls invalid, and answers that are drawn at random from its masks must validate with `jsonschema`. A
valid document that the grammar takes with its keys in another order or its numbers spelled otherwise counts as `narrower`,
and so does one that only a looser reading allows (an IPv6 address that ends in an IPv4 one): no answer is wrong for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import numpy as np

from octavo_engine.engine.constraints import LIMITS, Answer, TokenTable
from octavo_engine.engine.grammar_problems import unusable
from octavo_engine.errors import RequestError
from octavo_engine.messages import Vocabulary
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.intake.structured_outputs import of_schema
from octavo_engine.weights.cache import cache_folder

SDIST = "jsonschema==4.26.0"
DRAFTS = {
    "draft4": (jsonschema.Draft4Validator, "http://json-schema.org/draft-04/schema#"),
    "draft6": (jsonschema.Draft6Validator, "http://json-schema.org/draft-06/schema#"),
    "draft7": (jsonschema.Draft7Validator, "http://json-schema.org/draft-07/schema#"),
    "draft2019-09": (jsonschema.Draft201909Validator, "https://json-schema.org/draft/2019-09/schema"),
    "draft2020-12": (jsonschema.Draft202012Validator, "https://json-schema.org/draft/2020-12/schema"),
}
# Where the suite's drafts differ in what asserts: formats are held to in all, contents (base64, JSON in texts) in none.
CHOSEN = {"format.json", "optional/content.json"}
UNCHECKED = {  # where jsonschema 4.26 is wrong: it forgets in 2019-09 what additionalProperties evaluates
    ("draft2019-09", "unevaluatedProperties with adjacent non-bool additionalProperties"),
}
WALKS, LONGEST = 8, 300  # answers for each schema, and their tokens
END = 256
ORDERS = 720  # of keys, that are tried


@dataclass
class Report:
    """Counts by draft, and the cases that are wrong."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    narrower: list[str] = field(default_factory=list)


class Grammars:
    """Compiles schemas as the engine does, over a vocabulary of single bytes."""

    def __init__(self) -> None:
        self._tokenizer = TokenTable(Vocabulary([bytes([i]) for i in range(END)], []), END).build()
        self._limits = llguidance.LLParserLimits(**LIMITS)

    def compiled(self, schema: Any) -> llguidance.LLMatcher | str:
        """A matcher, or the sentence that refuses the schema."""
        try:
            grammar = of_schema(schema)
        except RequestError as error:
            return str(error)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        return unusable(matcher.get_error()) if matcher.is_error() else matcher


def takes(matcher: llguidance.LLMatcher, value: Any) -> bool:
    """Return whether the grammar takes a document as `json.dumps` writes it."""
    tokens = list(_text(value))
    probe = matcher.deep_copy()
    return probe.try_consume_tokens(tokens) == len(tokens) and probe.is_accepting()


def _text(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character
        return json.dumps(value).encode()


def spellings(value: Any) -> Iterator[Any]:
    """The same document with its keys in other orders, and whole numbers without a fraction."""
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    elif isinstance(value, list):
        yield from map(list, itertools.islice(itertools.product(*map(list, map(spellings, value))), ORDERS))
    elif isinstance(value, dict):
        inner = [[(key, spelled) for spelled in spellings(part)] for key, part in value.items()]
        for pairs in itertools.islice(itertools.product(*inner), ORDERS):
            yield from map(dict, itertools.islice(itertools.permutations(pairs), ORDERS))
    else:
        yield value


def drawn(matcher: llguidance.LLMatcher, rng: random.Random) -> str | None:
    """An answer drawn at random from the masks; None if it did not end by itself."""
    end = END + 1
    probe = matcher.deep_copy()
    answer = Answer(probe, SamplingParams(max_tokens=LONGEST, eos_token_ids=(end,)))
    text = bytearray()
    for _ in range(LONGEST):
        row = np.zeros((end + 32) // 32, np.uint32)
        answer.fill(row)
        allowed = [i for i in range(end + 1) if row[i >> 5] >> (i & 31) & 1 and i != END]
        if not allowed:
            return text.decode(errors="replace") if probe.is_stopped() else None
        # White space is rare, and closing brackets are likely, so that answers end.
        weights = [0.02 if chr(i) in " \n\r\t" else 30 if i == end or chr(i) in '"}]' else 1 for i in allowed]
        (token,) = rng.choices(allowed, weights)
        if token == end:
            return text.decode(errors="replace")
        text.append(token)
        answer.accept([token])
    return None


def run(suite: Path, seed: int) -> Report:
    """All drafts of a suite, whose folder has one folder a draft."""
    report, grammars = Report(), Grammars()
    for draft in DRAFTS:
        report.counts[draft] = Counter()
        for path in sorted((suite / draft).rglob("*.json")):
            name = str(path.relative_to(suite / draft))
            for case in json.loads(path.read_text()):
                _case(
                    report, grammars, draft, name, case, random.Random(f"{seed} {draft} {name} {case['description']}")
                )
    return report


def _case(report: Report, grammars: Grammars, draft: str, name: str, case: dict[str, Any], rng: random.Random) -> None:
    validator, uri = DRAFTS[draft]
    counts, schema = report.counts[draft], case["schema"]
    if isinstance(schema, dict):
        schema = {"$schema": uri, **schema}
    matcher = grammars.compiled(schema)
    if isinstance(matcher, str):
        counts["refused"] += 1
        report.refusals[matcher[:300]] += 1
        return
    counts["supported"] += 1
    where = f"{draft}/{name}: {case['description']}"
    for test in case["tests"]:
        taken, line = takes(matcher, test["data"]), f"{where}: {test['description']}: {json.dumps(test['data'])[:80]}"
        if name in CHOSEN and taken != test["valid"]:
            counts["read otherwise by choice"] += 1
        elif taken and not test["valid"]:
            counts["wrong"] += 1
            report.wrong.append(f"takes what is invalid: {line}")
        elif taken or not test["valid"]:
            counts["right"] += 1
        elif any(takes(matcher, spelled) for spelled in spellings(test["data"])):
            counts["narrower: order or spelling"] += 1
        else:
            counts["narrower: language"] += 1
            report.narrower.append(line)
    checker = validator(_decimal(json.dumps(schema)), format_checker=validator.FORMAT_CHECKER)
    disagrees = any(bool(_problem(checker, _text(test["data"]))) is test["valid"] for test in case["tests"])
    if disagrees or (draft, case["description"]) in UNCHECKED:
        counts["schemas that jsonschema reads otherwise than the suite"] += name not in CHOSEN
        return
    for _ in range(WALKS):
        text = drawn(matcher, rng)
        if text is None:
            counts["answers without an end"] += 1
            continue
        problem = _problem(checker, text)
        counts["answers" if problem is not None else "answers that can't be checked"] += 1
        if problem:
            counts["wrong"] += 1
            report.wrong.append(f"an answer does not validate: {where}: {text[:200]!r}: {problem[:200]}")


def _decimal(text: bytes | str) -> Any:
    """JSON with exact numbers: a float may be no multiple of another that it is one of."""
    return json.loads(text, parse_float=Decimal)


def _problem(checker: Any, text: bytes | str) -> str | None:
    """The problem of an answer, empty if there is none; None where Python can't read the schema's expressions."""
    try:
        with localcontext(Context(prec=1000)):
            return next((error.message for error in checker.iter_errors(_decimal(text))), "")
    except ValueError as error:
        return f"not JSON: {error}"
    except re.error:
        return None


def fetched() -> Path:
    """The suite's tests in the cache; fetched with pip where they are not there."""
    target = cache_folder() / "json-schema-suite" / SDIST.partition("==")[2]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "jsonschema", SDIST]
            subprocess.run([*command, "-d", folder], check=True)
            (archive,) = Path(folder).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            (tests,) = Path(folder).glob("*/json/tests")
            tests.rename(target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, help="a folder with draft4, draft6 … (default: fetched)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shown", type=int, default=20, metavar="N", help="print so many cases and refusals of a kind")
    args = parser.parse_args()
    report = run(args.suite or fetched(), args.seed)
    for title, lines in (("narrower", report.narrower), ("wrong", report.wrong)):
        for line in lines[: args.shown]:
            print(f"{title}: {line}")
    for refusal, count in report.refusals.most_common(args.shown):
        print(f"refused {count} times: {refusal[:160]}")
    for draft, counts in report.counts.items():
        print(f"{draft}: " + ", ".join(f"{what} {counts[what]}" for what in sorted(counts)))
    print(f"{len(report.wrong)} wrong")
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
