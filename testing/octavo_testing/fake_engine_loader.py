"""A loader for the core process: the real engine core over `FakeExecutor`."""

from __future__ import annotations

import json
import os
import time
from array import array
from pathlib import Path

import msgspec

from octavo_engine.config import encode_files
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.engine.probe import PROBE
from octavo_engine.errors import DeviceLostError, ModelLoadError
from octavo_engine.messages import Progress, Resolved
from octavo_engine.weights.adapter import Adapter
from octavo_engine.weights.adapter_config import read_adapter_config
from octavo_engine.weights.source import resolve
from octavo_testing.fake_executor import FakeExecutor

BLOCK_SIZE = 4
NUM_PRINTABLE = 95  # token ids of printable characters, which is all that is drawn
VOCABULARY = 258
# Prompts that make trouble, by their first token, a character.
TROUBLE = {ord("!") - 33: "submit", ord('"') - 33: "lost"}


class TroubledExecutor(FakeExecutor):
    """Fails for a prompt that begins with "!", and as if the device were lost for one that begins with a quote."""

    beats = memoryview(array("Q", [0]))  # until a reader looks

    def beat_into(self, beats):
        self.beats = beats

    def draw(self, seen, sampling, num_output_tokens, mask=None):
        """Every answer is FAKE_ANSWER's token ids, over and over, if there are any."""
        if "FAKE_ANSWER" not in os.environ:
            return super().draw(seen, sampling, num_output_tokens, mask)
        answer = json.loads(os.environ["FAKE_ANSWER"])
        return answer[num_output_tokens % len(answer)]

    def submit(self, step):
        for new in step.new:
            trouble = None if new.request_id == PROBE else TROUBLE.get(new.token_ids[0])
            if trouble == "lost":
                raise DeviceLostError("the device is lost: a test asked for it")
            if trouble:
                self.fails[new.request_id] = trouble
        end = time.monotonic() + float(os.environ.get("FAKE_STEP_SECONDS", "0"))
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
            self.beats[0] += 1
        return super().submit(step)


def read_adapter(path, adapter_id):
    """An adapter of any folder with a config of PEFT's: `FakeExecutor` draws other tokens for each id."""
    config = Path(path) / "adapter_config.json"
    if not config.is_file():
        raise ModelLoadError(f"No adapter found for {path}: it has no adapter_config.json")
    time.sleep(float(os.environ.get("FAKE_ADAPTER_SECONDS", "0")))
    read_adapter_config(config)
    return Adapter(adapter_id, ())


def load(config, send):
    if "FAKE_LOAD_SECONDS" in os.environ:
        time.sleep(float(os.environ["FAKE_LOAD_SECONDS"]))
    if "FAKE_LOAD_FAILURE" in os.environ:
        raise ModelLoadError(os.environ["FAKE_LOAD_FAILURE"])
    send(Resolved(encode_files(resolve(config.model, lambda *_: None))))
    executor = TroubledExecutor(
        block_size=BLOCK_SIZE, vocab_size=NUM_PRINTABLE, kv_bytes=int(os.environ.get("FAKE_NUM_BLOCKS", "600"))
    )
    # Blocks of one byte: as many as swap space usually holds would be billions.
    cache = msgspec.structs.replace(config.cache, swap_space_gib=0.0)
    config = msgspec.structs.replace(config, cache=cache)
    adapters = config.adapters
    executor.max_loras, executor.max_cpu_loras = adapters.max_loras, adapters.max_cpu_loras
    engine = EngineCore(
        config, executor, None, lambda stage, seconds: send(Progress(stage, seconds)), read_adapter=read_adapter
    )
    return engine, msgspec.structs.replace(engine.ready(), vocab_size=VOCABULARY)
