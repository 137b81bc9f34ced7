"""Adapters of a running engine: read beside the steps, freed once no request has them, refused in a sentence."""

from __future__ import annotations

import threading
import time

import pytest
from octavo_testing.fake_executor import FakeExecutor, core_over
from octavo_testing.served import TINY_CONFIG

from octavo_engine.config import AdapterConfig, EngineConfig, ModelConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.engine.kv_sizing import adapter_bytes_of
from octavo_engine.errors import ConfigError, ExecutorError, ModelLoadError
from octavo_engine.executors.executor import Capabilities, Capacity
from octavo_engine.messages import AdapterLoaded, AddAdapter, EngineRequest
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.adapter import Adapter
from octavo_models import from_hf_config
from octavo_models.adapter_modules import adapter_elements
from octavo_models.spec import KVLayout


def request(name: str, adapter_id: int, max_tokens: int = 6) -> EngineRequest:
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return EngineRequest(
        request_id=name, prompt_token_ids=[1, 2], sampling=sampling, arrival_time=0.0, adapter_id=adapter_id
    )


def settled(core: EngineCore) -> list[AdapterLoaded]:
    """The answers once nothing is being read any more."""
    end = time.monotonic() + 5
    replies: list[AdapterLoaded] = []
    while not replies:
        assert time.monotonic() < end
        replies = core.settle_adapters()
        time.sleep(0.001)
    return replies


def add(core: EngineCore, adapter_id: int, path: str = "new") -> str | None:
    core.add_adapter(AddAdapter(adapter_id=adapter_id, path=path))
    (reply,) = settled(core)
    assert reply.adapter_id == adapter_id
    return reply.problem


def run(core: EngineCore) -> dict[str, str | None]:
    """Run to the end; each request's error."""
    ends = {}
    while core.has_work or core.is_reading:
        core.settle_adapters()
        ends |= {output.request_id: output.error for output in core.step() if output.finish_reason}
    return ends


def test_steps_go_on_while_an_adapter_is_read():
    may_end = threading.Event()

    def read(path: str, adapter_id: int) -> Adapter:
        assert path != "new" or may_end.wait(5)
        return Adapter(adapter_id, ())

    core = core_over(FakeExecutor(), read_adapter=read)
    core.add(request("a", 1))
    core.add_adapter(AddAdapter(adapter_id=4, path="new"))
    while core.has_work:
        assert core.settle_adapters() == []
        core.step()
    may_end.set()
    assert settled(core) == [AdapterLoaded(adapter_id=4)]
    core.add(request("b", 4))
    assert run(core) == {"b": None}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_adapter_that_is_removed_serves_what_was_sent_before(asynchronous):
    executor = FakeExecutor(asynchronous=asynchronous)
    core = core_over(executor)
    core.add(request("before", 1))
    core.add(request("base", 0, max_tokens=30))
    core.step()
    core.remove_adapter(1)
    core.add(request("after", 1))
    ends = run(core)
    assert ends["before"] is None
    assert "its adapter was unloaded" in ends["after"]
    assert 1 not in executor.adapters
    assert core.stats().running_adapters == []


def test_a_full_house_takes_the_next_adapter_once_the_requests_of_one_that_leaves_have_ended():
    """Its own requests wait until then, and can be aborted while they do."""
    executor = FakeExecutor()
    core = core_over(executor, adapters=1, max_loras=1, max_cpu_loras=1)
    core.add(request("old", 1))
    core.step()
    assert add(core, 2) is None
    core.add(request("new", 2))
    core.add(request("aborted", 2))
    core.remove_adapter(1)
    core.step()
    core.settle_adapters()
    assert core.stats().num_waiting == 2
    assert set(executor.adapters) == {1}
    core.abort(["aborted"])
    (output,) = [output for output in core.step() if output.finish_reason]
    assert (output.request_id, output.finish_reason, output.error) == ("aborted", "abort", None)
    assert run(core) == {"old": None, "new": None}
    assert set(executor.adapters) == {2}


def test_what_waits_for_an_adapter_that_is_then_removed_is_served():
    core = core_over(FakeExecutor(), adapters=1, max_loras=1, max_cpu_loras=1)
    core.add(request("old", 1))
    core.step()
    assert add(core, 2) is None
    core.add(request("new", 2))
    core.remove_adapter(1)
    core.remove_adapter(2)
    core.add(request("late", 2))
    ends = run(core)
    assert (ends["old"], ends["new"]) == (None, None)
    assert "its adapter was unloaded" in ends["late"]


@pytest.mark.parametrize("error", [ExecutorError("no room for it"), RuntimeError("secret")])
def test_an_adapter_that_cannot_be_kept_in_the_end_says_why_to_its_requests(error):
    class Full(FakeExecutor):
        def add_adapter(self, adapter: Adapter) -> None:
            if adapter.adapter_id == 2:
                raise error
            super().add_adapter(adapter)

    core = core_over(Full(), adapters=1, max_loras=1, max_cpu_loras=1)
    core.add(request("old", 1))
    core.step()
    assert add(core, 2) is None
    core.add(request("new", 2))
    core.remove_adapter(1)
    ends = run(core)
    assert ends["old"] is None
    assert ("no room for it" if isinstance(error, ExecutorError) else "could not be handed over") in ends["new"]
    core.remove_adapter(2)
    assert not core.is_reading


def test_what_cannot_be_read_or_kept_is_refused_and_the_engine_goes_on():
    def read(path: str, adapter_id: int) -> Adapter:
        if path == "damaged":
            raise ModelLoadError("damaged: it is cut short")
        if path == "bug":
            raise RuntimeError("secret")
        return Adapter(adapter_id, ())

    class Full(FakeExecutor):
        def add_adapter(self, adapter: Adapter) -> None:
            if adapter.adapter_id == 6:
                raise ExecutorError("no memory is left")
            super().add_adapter(adapter)

    core = core_over(Full(), adapters=1, read_adapter=read)
    assert add(core, 4, "damaged") == "damaged: it is cut short"
    assert "which the engine's log describes" not in (problem := add(core, 5, "bug") or "")
    assert "secret" not in problem
    assert "log" in problem
    assert add(core, 6) == "no memory is left"
    core.add(request("unknown", 6))
    core.add(request("known", 1))
    ends = run(core)
    assert ends["known"] is None
    assert "its adapter was unloaded" in ends["unknown"]


def test_an_executor_without_adapters_refuses_the_start():
    class Without(FakeExecutor):
        @property
        def capabilities(self) -> Capabilities:
            return Capabilities("without")

    with pytest.raises(ConfigError, match="--enable-lora: without serves no adapters"):
        core_over(Without())


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_a_cpus_memory_for_adapters_is_of_as_many_and_as_high_as_they_may_be(dtype, size):
    """A GPU's executor counts its own; without adapters there is none."""
    spec = from_hf_config(TINY_CONFIG | {"torch_dtype": dtype})
    capacity = Capacity(KVLayout(16, ()), 1000, None)
    config = EngineConfig(
        model=ModelConfig(model="m", served_model_names=("m",)),
        adapters=AdapterConfig(enabled=True, max_lora_rank=8, max_cpu_loras=5),
    )
    assert adapter_bytes_of(config, capacity, spec) == size * 5 * adapter_elements(spec, 8)
    assert adapter_bytes_of(config, Capacity(KVLayout(16, ()), 1000, 1 << 30), spec) == 0
    assert adapter_bytes_of(EngineConfig(model=config.model), capacity, spec) == 0
