"""A chat template reaches the engine as a path or by name; a name only where the engine has it built in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from octavo_testing.planner_cases import CPU, service

from octavo_operator.api.observed import Observed
from octavo_operator.planner import engine_flags, plan
from octavo_operator.runtimes import IMAGE_KEYS, RUNTIMES
from octavo_operator.settings import Settings

NAMED = {"name": "phi-2"}
FILE = {"configMapName": "t", "key": "x"}
TODAY = Settings(images=dict.fromkeys(IMAGE_KEYS, "image:1") | {"octavo": "octavo/engine:0.3.0"}, version="0.3.0")
PINNED = replace(TODAY, images={"octavo": "octavo/engine:0.2.0"})


def planned(template, settings=TODAY, **engine):
    model = {"uri": "pvc://models/m", "chatTemplate": template}
    on_cpu = "cpu" in RUNTIMES[engine.get("runtime", "octavo")].images
    accelerator = CPU if on_cpu else {"products": ["NVIDIA-A100-SXM4-80GB"]}
    return plan(service(model=model, accelerator=accelerator, engine=engine), Observed(), settings)


@pytest.mark.parametrize(
    ("template", "value", "mounted"),
    [
        (None, None, None),
        (NAMED, "phi-2", None),
        (FILE, "/etc/octavo/chat-template/template.jinja", ("t", "x")),
    ],
)
def test_a_name_is_the_flags_value_and_mounts_nothing(template, value, mounted):
    made = planned(template)
    assert made.refusal is None
    assert (made.engine.chat_template, made.pod.chat_template) == (value, mounted)


@pytest.mark.parametrize("runtime", sorted(RUNTIMES.keys() - {"octavo"}))
def test_another_runtime_has_no_built_in_templates(runtime):
    """Another runtime would take the name for a file, and crash-loop."""
    refusal = planned(NAMED, runtime=runtime).refusal
    assert refusal.reason == "ChatTemplateNotSupported"
    assert refusal.message == f"model.chatTemplate.name phi-2: {runtime} has no built-in chat templates"
    assert "model.chatTemplate.configMapName and key" in refusal.remedy
    assert "engine.runtime: octavo" in refusal.remedy
    assert planned(FILE, runtime=runtime).refusal is None


@pytest.mark.parametrize(
    ("settings", "engine", "value"),
    [
        (TODAY, {}, "phi-2"),
        (PINNED, {}, None),
        (TODAY, {"image": {"tag": "0.2.5"}}, None),
        (PINNED, {"image": {"repository": "mine/engine", "tag": "0.2.0"}}, "phi-2"),  # its version is not known
    ],
)
def test_an_older_engine_is_not_given_a_name_that_came_later(monkeypatch, settings, engine, value):
    """An older engine would take it for a file; a ConfigMap's it reads as ever."""
    monkeypatch.setitem(engine_flags.TEMPLATES, "phi-2", (0, 3, 0))
    made = planned(NAMED, settings, **engine)
    assert made.engine.chat_template == value
    said = [warning for warning in made.warnings if "the chat template phi-2, which came with 0.3.0" in warning]
    assert bool(said) == (value is None)
    assert planned(FILE, settings, **engine).engine.chat_template is not None
