"""`octavo up`: a manifest's replicas run here behind its port, are healed, drained, and never left behind."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from up_runs import gone, manifest, wait_until_gone

pytestmark = pytest.mark.timeout(60)


def test_one_replica_listens_on_the_services_port_itself(up):
    run = up(manifest())
    run.wait_for("svc answers at")
    about = run.about()
    assert [about["pid"]] == run.children()
    assert about["model"] == "package://some_model"
    assert about["rest"][:4] == ["--served-model-name", "svc", "--max-model-len", "128"]
    status, log = run.end()
    assert status == 0
    assert "loaded in 0.0 s" in log
    assert "answers at http://127.0.0.1:" in log


def test_several_replicas_stand_behind_one_front_and_share_the_cores(up):
    run = up(manifest("replicas: 2"))
    run.wait_for("svc-0  ready")
    run.wait_for("svc-1  ready")
    seen = [run.about() for _ in range(4)]
    assert len({about["pid"] for about in seen}) == 2
    cores = {tuple(about["cores"]) for about in seen}
    if len(os.sched_getaffinity(0)) > 1:
        (one, other) = cores
        assert not set(one) & set(other)
    metrics = run.ask("/metrics").decode()
    assert 'replica="svc-0"' in metrics
    assert 'replica="svc-1"' in metrics
    assert run.end()[0] == 0


@pytest.mark.slow
def test_the_flag_overrides_the_manifests_replicas(up):
    run = up(manifest("replicas: 3"), "--replicas", "1")
    run.wait_for("svc answers at")
    assert len(run.children()) == 1


def test_a_replica_that_dies_is_reported_with_its_reason_and_started_again(up):
    run = up(manifest("replicas: 2"))
    run.wait_for("svc-0  ready")
    run.wait_for("svc-1  ready")
    with pytest.raises(urllib.error.HTTPError, match="502"):
        run.ask("/die", {})
    run.wait_for("ended with status 3: out of luck; it starts again in 0.1 s")
    assert run.ask("/health") == b""
    run.wait_for("  ready", 3)
    assert len({run.about()["pid"] for _ in range(4)}) == 2


def test_a_replica_alone_comes_back_on_the_same_port(up):
    run = up(manifest())
    run.wait_for("svc answers at")
    (before,) = run.children()
    os.kill(before, signal.SIGKILL)
    run.wait_for("ended by SIGKILL")
    run.wait_for("svc  ready", 2)
    assert run.about()["pid"] != before


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_wrong_configuration_ends_everything_with_the_engines_sentence(up, replicas):
    run = up(manifest(f"replicas: {replicas}", FAKE_CONFIG_ERROR="octavo serve: there is no flag --x"))
    status, log = run.process.wait(20), run.log.read_text()
    assert status == 2
    assert log.splitlines()[-1] == "octavo up: there is no flag --x"
    assert log.count("starting on port") == replicas


def test_a_model_that_never_loads_is_not_tried_for_ever(up):
    run = up(manifest(FAKE_FAILURE="m.gguf: tensor a is cut short"))
    status, log = run.process.wait(30), run.log.read_text()
    assert status == 1
    assert log.count("starting on port") == 3
    assert log.splitlines()[-1] == "octavo up: m.gguf: tensor a is cut short"


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_lets_running_requests_finish(up, replicas):
    run = up(manifest(f"replicas: {replicas}"))
    run.wait_for("  ready", replicas)
    body = json.dumps({"max_tokens": 10, "pause": 0.1})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", run.port), timeout=20) as client:
        client.sendall((head + body).encode())
        got = client.recv(1000)
        run.process.send_signal(signal.SIGINT)
        while chunk := client.recv(1000):
            got += chunk
    assert b"[DONE]" in got
    assert run.process.wait(20) == 0
    assert "stopping: requests have 30 s to finish" in run.log.read_text()


def test_a_second_ctrl_c_ends_at_once(up):
    run = up(manifest())
    run.wait_for("  ready")
    (child,) = run.children()
    client = socket.create_connection(("127.0.0.1", run.port), timeout=20)
    body = json.dumps({"max_tokens": 1000, "pause": 0.1})
    client.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    assert client.recv(1000)
    run.process.send_signal(signal.SIGINT)
    run.wait_for("stopping")
    started = time.monotonic()
    status, _ = run.end()
    assert status == 130
    assert time.monotonic() - started < 5
    assert gone(child)
    client.close()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_nothing_is_left_behind_however_it_ends(up, number):
    run = up(manifest("replicas: 2"))
    run.wait_for("  ready", 2)
    children = run.children()
    assert len(children) == 2
    run.process.send_signal(number)
    run.process.wait(20)
    wait_until_gone(children)


def test_secrets_and_config_maps_come_from_the_same_file(up):
    key = base64.b64encode(b"secret-1\n").decode()
    run = up(
        manifest(
            """
            auth: {apiKeys: {secretName: keys, key: k}}
            """,
            f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\ndata: {{k: {key}}}\n",
        ).replace("some_model}", "some_model, chatTemplate: {configMapName: t, key: x}}")
        + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: t}\ndata: {x: 'hello {{ m }}'}\n"
    )
    run.wait_for("with an API key")
    about = run.about()
    assert about["key"] == "secret-1"
    assert about["template"] == "hello {{ m }}\n"
    assert about["authorization"] == "Bearer k"
    assert "secret-1" not in Path(f"/proc/{about['pid']}/cmdline").read_text()


@pytest.mark.slow
def test_a_built_in_chat_template_is_passed_by_name(up):
    run = up(manifest("").replace("some_model}", "some_model, chatTemplate: {name: phi-2}}"))
    run.wait_for("svc answers at")
    assert run.about()["template"] == "phi-2"


@pytest.mark.slow
def test_a_manifests_text_reaches_the_engine_in_any_locale(up):
    """A template holds what its language needs; a C locale has no bytes for it."""
    text = "größer → 日本"
    template = f"""---
apiVersion: v1
kind: ConfigMap
metadata: {{name: templates}}
data: {{chat: "{text}"}}
"""
    model = "some_model, chatTemplate: {configMapName: templates, key: chat}}"
    service = manifest("", template, OCTAVO_API_KEY=text).replace("some_model}", model)
    run = up(service, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    run.wait_for("svc answers at")
    about = run.about()
    assert about["template"] == f"{text}\n"
    assert about["key"] == text
    assert run.end()[0] == 0


@pytest.mark.slow
def test_a_secret_comes_from_a_file_by_flag(up, tmp_path):
    (tmp_path / "key").write_text("from-file\n")
    run = up(manifest("auth: {apiKeys: {secretName: keys}}"), "--secret", f"keys={tmp_path}/key")
    run.wait_for("svc answers at")
    assert run.about()["key"] == "from-file"


@pytest.mark.parametrize(
    ("extra", "arguments", "message"),
    [
        (
            "auth: {apiKeys: {secretName: keys}}",
            [],
            (
                "environment variable OCTAVO_API_KEY refers to Secret keys, which is not in the file; "
                "add it there as a further document, or give its value by --secret keys=FILE"
            ),
        ),
        ("suspend: true", [], "svc has no replicas (spec.suspend or replicas: 0); --replicas 1 runs one"),
        ("resources: {limits: {memory: 1Gi}}", ["--secret", "x"], "--secret x: write --secret NAME=FILE"),
    ],
)
def test_what_is_missing_is_reported_with_the_remedy(up, extra, arguments, message):
    run = up(manifest(extra), *arguments)
    assert run.process.wait(20) == 1
    assert run.log.read_text() == f"octavo up: {message}\n"


def test_a_manifest_for_a_gpu_is_refused_here_unless_a_flag_says_cpu(up):
    text = manifest().replace("vendor: cpu", "vendor: nvidia, products: [NVIDIA-L4]")
    refused = up(text)
    assert refused.process.wait(20) == 1
    message = "svc asks for an NVIDIA GPU, and octavo up finds none here that torch could use; --cpu runs it"
    assert message in refused.log.read_text()
    run = up(text.replace("maxModelLen", "tensorParallelSize: 2, maxModelLen"), "--cpu")
    run.wait_for("svc answers at")
    assert "it runs on the CPU: --cpu, undivided: the manifest's 2 ranks are for GPUs" in run.log.read_text()
    assert "--tensor-parallel-size" not in run.about()["rest"]


@pytest.mark.slow
def test_a_manifest_that_names_no_accelerator_just_runs(up):
    run = up(manifest().replace("  accelerator: {vendor: cpu}\n", ""))
    run.wait_for("svc answers at")
    assert "it runs on the CPU: the manifest names no accelerator" in run.log.read_text()


def test_a_port_that_is_taken_is_reported(up):
    first = up(manifest())
    first.wait_for("svc answers at")
    second = up(manifest(), "--port", str(first.port))
    assert second.process.wait(20) == 1
    assert f"port {first.port} is in use on this machine; --port N takes another one" in second.log.read_text()


def test_a_wrong_manifest_is_reported_and_nothing_starts(up):
    run = up(manifest("replica: 2"))
    assert run.process.wait(20) == 2
    assert "spec.replica: there is no such field; did you mean replicas?" in run.log.read_text()


def test_a_hub_token_in_the_environment_does_for_a_secret_of_the_cluster(up):
    text = manifest().replace("package://some_model", "hf://a/b, credentials: {secretName: hf}")
    run = up(text, env={"HF_TOKEN": "mine", "HF_HUB_OFFLINE": "1"})
    run.wait_for("svc answers at")
    missing = up(text, env={"HF_TOKEN": "", "HF_HUB_OFFLINE": "1"})
    assert missing.process.wait(20) == 1
    assert "environment variable HF_TOKEN refers to Secret hf" in missing.log.read_text()
