"""A tutorial on serving vLLM with plain Deployments (chatbot, load test, autoscaler), as a user types it.

Its manifests alone are LLMServices. phi-2 has its own shape, and made-up weights and words, for no index has the real ones;
the other two are small models in place of large ones, under their own names.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from e2e.world import free_port

TUTORIAL = Path(__file__).with_name("tutorial")
OVERLAYS = Path(__file__).with_name("overlays")
NAMESPACE, SERVER = "llm-demo", "vllm-server"
PHI, END_OF_TEXT = "microsoft/phi-2", 50_256
CODER, GATED = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "octavo-e2e/SmolLM2-135M-Instruct-gated"


def manifest(world, overlay):
    """A sample of config/samples, lowered to what this node has: the overlay says what and why."""
    return world.kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", OVERLAYS / overlay)


def tokenizer_of_phi_2s_size():
    """Bytes, made-up words of a few of them, and the end of a text at the id that phi-2 has it: what is drawn has a text."""
    words = [*sorted(ByteLevel.alphabet()), *(f"Ġ{i:x}" for i in range(256, END_OF_TEXT))]
    tokenizer = Tokenizer(BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


@pytest.fixture(scope="module")
def demo(octavo, cluster, tmp_path_factory):
    """kubectl create namespace, create secret, apply, wait."""
    phi = manifest(octavo, "phi-2")
    (service,) = (each for each in yaml.safe_load_all(phi) if each["kind"] == "LLMService")
    folder = tmp_path_factory.mktemp("phi-2")
    (folder / "config.json").write_text(service["metadata"]["annotations"]["octavo.dev/model-config"])
    tokenizer_of_phi_2s_size().save(str(folder / "tokenizer.json"))
    cluster.publish_model(PHI, folder)
    octavo.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    octavo.kubectl("create", "namespace", NAMESPACE)
    octavo.kubectl("create", "secret", "generic", "hf-token", "-n", NAMESPACE, "--from-literal=token=hf_TOKEN")
    octavo.kubectl("apply", "-f", "-", stdin=phi)
    octavo.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", f"llms/{SERVER}", "--timeout=480s", seconds=500)
    yield octavo
    octavo.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def forwarded(demo):
    """kubectl port-forward svc/vllm-server; the URL on this machine."""
    port = free_port()
    argv = [demo.cluster.tool("kubectl"), f"--kubeconfig={demo.cluster.kubeconfig}", "port-forward", "-n", NAMESPACE]
    with subprocess.Popen([*argv, f"svc/{SERVER}", f"{port}:8000"], stdout=subprocess.DEVNULL) as process:
        demo.until(lambda: _listens(port), 30, "kubectl port-forward does not listen", every=0.2)
        yield f"http://localhost:{port}"
        process.terminate()


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(*argv, stdin=""):
    """Run a program, which must succeed, and return its output."""
    done = subprocess.run(list(map(str, argv)), input=stdin, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl_completes_a_prompt(forwarded):
    """Namespace, token, apply, `kubectl wait`, port-forward: curl gets its completion"""
    body = json.dumps({"model": PHI, "prompt": "Kubernetes is", "max_tokens": 50})
    answer = json.loads(
        run("curl", "-sf", f"{forwarded}/v1/completions", "-H", "Content-Type: application/json", "-d", body)
    )
    assert answer["choices"][0]["text"].strip()
    assert answer["usage"]["completion_tokens"] <= 50


def test_the_chatbot_keeps_the_conversation(forwarded):
    """The chatbot with the openai package holds a conversation"""
    said = run(sys.executable, TUTORIAL / "chatbot.py", forwarded, stdin="My name is Ada.\nWhat is a Pod?\nquit\n")
    assert said.count("Assistant: ") == 2
    assert "5 messages" in said


def test_the_load_test_runs(forwarded, record_property):
    """The tutorial's load test: twenty completions at once, all answered"""
    said = run(sys.executable, TUTORIAL / "load_test.py", forwarded)
    assert "Total requests: 20" in said
    record_property("throughput", re.search(r"Throughput: (.*)", said)[1])


def test_the_metrics_are_those_that_it_names(forwarded):
    """`curl /metrics | grep vllm`: every metric that the tutorial names is there"""
    text = run("curl", "-sf", f"{forwarded}/metrics")
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:gpu_cache_usage_perc",
        "vllm:avg_generation_throughput_toks_per_s",
        "vllm:avg_prompt_throughput_toks_per_s",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:time_per_output_token_seconds_bucket",
    ):
        assert any(line.startswith(f"{name}{{") for line in text.splitlines()), name


def test_its_autoscaler_reads_the_queue(demo):
    """The tutorial's own HorizontalPodAutoscaler manifest, with nothing else installed, is ScalingActive"""
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": "vllm_num_requests_waiting"},
            "target": {"type": "AverageValue", "averageValue": "10"},
        },
    }
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": SERVER}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric]}
    metadata = {"name": "vllm-hpa", "namespace": NAMESPACE}
    demo.apply({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec})

    def is_active():
        conditions = (demo.get("hpa", "vllm-hpa", NAMESPACE) or {}).get("status", {}).get("conditions", ())
        return any(each["type"] == "ScalingActive" and each["status"] == "True" for each in conditions)

    demo.until(is_active, 90, lambda: demo.kubectl("-n", NAMESPACE, "describe", "hpa", "vllm-hpa"))
    demo.kubectl("-n", NAMESPACE, "delete", "hpa", "vllm-hpa")


def test_the_namespace_goes(demo, record_property):
    """`kubectl delete namespace` at the end"""
    began = time.monotonic()
    demo.kubectl("delete", "namespace", NAMESPACE, "--timeout=150s", seconds=170)
    record_property("gone after", f"{time.monotonic() - began:.0f} s")


def test_two_models_side_by_side(octavo, cluster, smollm2_folder, qwen_coder_folder, record_property):
    """Two models with different resources in one namespace, one of them gated; each answers under its own name"""
    namespace = "llm-serving"
    cluster.publish_model(CODER, qwen_coder_folder)
    cluster.publish_model(GATED, smollm2_folder, token="hf_gated")
    try:
        octavo.kubectl("create", "namespace", namespace)
        octavo.kubectl("create", "secret", "generic", "hf-token", "-n", namespace, "--from-literal=token=hf_gated")
        octavo.kubectl("apply", "-f", "-", stdin=manifest(octavo, "two-models"))
        for name, model in (("qwen-coder", CODER), ("smollm2", GATED)):
            record_property(name, f"ready after {octavo.wait_ready(name, namespace):.0f} s")
            body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
            status, text = octavo.ask(f"{octavo.url(name, namespace)}/v1/chat/completions", body)
            assert status == 200, text
        assert len(octavo.replicas("qwen-coder", namespace)) == 2
    finally:
        octavo.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")
