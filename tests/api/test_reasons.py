"""Every reason of a condition or an Event comes from one registry, and each entry is used."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from octavo_operator.api.conditions import LONGEST_REASON, REASON, State, as_reason
from octavo_operator.api.metrics_source import MetricsSource
from octavo_operator.api.reasons import GROUPS, REASONS, Foreign, Reason
from octavo_operator.api.refusal import Refusal
from octavo_operator.planner.plan import Fit
from octavo_operator.reconcile.diagnosis.crashes import SIGNATURES, Signature
from octavo_operator.reconcile.diagnosis.rejections import SIGNATURES as REJECTIONS
from octavo_operator.reconcile.diagnosis.rejections import RejectionSignature
from octavo_operator.reconcile.diagnosis.trouble import Trouble

SOURCES = Path(__file__).parents[2] / "operator" / "octavo_operator"


def alternatives(kind: object) -> set[object]:
    """The types of a union."""
    return set(typing.get_args(kind)) or {kind}


@pytest.mark.parametrize("carrier", [Refusal, Fit, MetricsSource, Trouble, Signature, RejectionSignature])
def test_what_carries_a_reason_takes_no_plain_text(carrier):
    """mypy then holds every place that makes one to the registry."""
    kinds = alternatives(typing.get_type_hints(carrier)["reason"])
    assert {each for each in kinds if each is not Foreign and not issubclass(each, Reason)} == set()


def test_a_conditions_state_takes_no_plain_text():
    assert alternatives(typing.get_args(State)[1]) == {Reason, Foreign}


def test_every_reason_is_used():
    """Each is used by its name, or by a set of names that is passed on by value."""
    text = "\n".join(path.read_text() for path in SOURCES.rglob("*.py") if path.name != "reasons.py")
    used = set(re.findall(r"\b(\w+Reason\.[A-Z_]+)\b", text))
    assert {f"{type(each).__name__}.{each.name}" for each in REASONS} == used


def test_every_reason_is_one_word_and_stands_once():
    assert len(set(map(str, REASONS))) == len(REASONS)
    for reason in REASONS:
        assert re.fullmatch(REASON, reason)
        assert len(reason) <= LONGEST_REASON
        assert as_reason(reason) == str(reason)
        assert reason.meaning.endswith(".")


def test_every_reason_has_its_remedy_in_one_place():
    diagnosed = {each.reason for each in (*SIGNATURES, *REJECTIONS)}
    for reason in REASONS:
        assert reason.remedy or reason in diagnosed, reason


def test_every_group_has_a_title_and_a_sentence():
    """The reference of conditions has a section for each."""
    for group in GROUPS:
        title, _, text = group.__doc__.partition("\n\n")
        assert title.endswith(".")
        assert text.strip().endswith(".")


def test_a_status_holds_plain_text():
    """A member of an enum is not what a serializer of YAML takes."""
    assert type(as_reason(REASONS[0])) is str
    assert dataclasses.asdict(Refusal(REASONS[0], "", ""))["reason"] == "InvalidSpec"
