"""A sampling parameter that is a number reaches both executors by its name alone."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from octavo_testing.extreme_parameters import compose, server_context

from octavo_engine.executors.native import _native
from octavo_engine.executors.native.executor import native_sampling
from octavo_engine.executors.torch.sampler import FLOATS
from octavo_engine.sampling_params import MODEL_DEFAULTS, SamplingParams

NUMBERS = {field.name for field in msgspec.structs.fields(SamplingParams) if field.type is float}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return server_context(tmp_path_factory.mktemp("model"))


def test_both_executors_take_every_number():
    assert set(_native.Sampling.NUMBERS) == NUMBERS
    assert set(FLOATS) == NUMBERS


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_requests_number_reaches_the_native_executor(context, name):
    params = compose(context, {name: "0.5"})
    assert getattr(params, name) == 0.5
    assert getattr(native_sampling(_native, params), name) == 0.5


def test_the_models_default_holds_where_a_request_is_silent(context, monkeypatch):
    defaults = {name: 0.25 for name in MODEL_DEFAULTS if name in NUMBERS}
    monkeypatch.setattr(context, "defaults", dataclasses.replace(context.defaults, sampling=defaults))
    params = compose(context, {"top_p": "0.75"})
    assert {name: getattr(params, name) for name in defaults} == defaults | {"top_p": 0.75}
