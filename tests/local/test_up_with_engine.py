"""`octavo up` with the real engine and a real model: one manifest, an answer, a death, an end."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
from pathlib import Path

import pytest
from up_runs import REAL_ENGINE, wait_until_gone

pytestmark = pytest.mark.timeout(120)

MANIFEST = """
apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata: {{name: svc}}
spec:
  model: {{uri: "file://{model}", servedNames: [tiny]}}
  engine: {{maxModelLen: 512, maxNumSeqs: 8}}
  accelerator: {{vendor: cpu}}
  replicas: 2
  auth: {{apiKeys: {{secretName: keys, key: k}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: keys}}
stringData: {{k: sesame}}
"""
QUESTION = {"model": "tiny", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
JSON = {"Content-Type": "application/json"}
KEY = JSON | {"Authorization": "Bearer sesame"}


def descendants(pid: int) -> list[int]:
    """All processes below this one."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [below for child in children for below in descendants(child)]


def test_a_manifest_is_served_healed_and_ended(up, smollm2):
    run = up(MANIFEST.format(model=smollm2.gguf), engine=REAL_ENGINE)
    run.wait_for("svc-0  ready")
    run.wait_for("svc-1  ready")

    with pytest.raises(urllib.error.HTTPError, match="401"):
        run.ask("/v1/completions", QUESTION, **JSON)
    answers = [json.loads(run.ask("/v1/completions", QUESTION, **KEY))["choices"][0]["text"] for _ in range(4)]
    assert len(set(answers)) == 1
    assert "Paris" in answers[0]

    os.kill(run.children()[0], signal.SIGKILL)
    run.wait_for("ended by SIGKILL")
    run.wait_for("  ready", 3)
    assert json.loads(run.ask("/v1/completions", QUESTION, **KEY))["choices"][0]["text"] == answers[0]

    everything = descendants(run.process.pid)
    assert len(everything) >= 4  # two servers, two cores
    status, _ = run.end()
    assert status == 0
    wait_until_gone(everything)


@pytest.mark.slow
def test_nothing_of_the_engine_outlives_a_kill(up, smollm2):
    run = up(MANIFEST.format(model=smollm2.gguf), "--replicas", "1", engine=REAL_ENGINE)
    run.wait_for("svc  ready")
    everything = descendants(run.process.pid)
    run.process.kill()
    run.process.wait(20)
    wait_until_gone(everything)


def test_a_flag_that_the_engine_refuses_ends_it_with_the_engines_sentence(up, smollm2):
    text = MANIFEST.format(model=smollm2.gguf).replace(
        "maxNumSeqs: 8", "maxNumSeqs: 8, args: [--speculative-config, ngram]"
    )
    run = up(text, engine=REAL_ENGINE)
    assert run.process.wait(60) == 2
    last = run.log.read_text().splitlines()[-1]
    assert last.startswith("octavo up: --speculative-config")
