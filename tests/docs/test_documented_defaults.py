"""The numbers in the sentences of documents, help texts and field descriptions are those of the code.

Generated documents are covered by their hand-written half; `make verify`, `tests/cli/test_arguments.py` (numbers of
the flags' help) and `tests/server/test_limits.py` (the limits' reference) hold the rest.
"""

from __future__ import annotations

import re

import pytest
import yaml
from documents import ROOT
from octavo_testing.planner_cases import planned

from octavo_engine.config import EngineConfig, ModelConfig, ServerConfig
from octavo_engine.core_client.queue_pace import LONGEST_SECONDS
from octavo_engine.engine.kv_sizing import GPU_SWAP_GIB
from octavo_engine.server import http_server, loop_watch
from octavo_engine.server.answer import event_stream
from octavo_engine.server.auth import OPEN_PATHS
from octavo_engine.server.intake import admission
from octavo_engine.server.intake.limits import MIB, limits_of
from octavo_engine.server.lifecycle import QUIET_SECONDS
from octavo_operator.children import hpa, pod
from octavo_operator.controller import workers
from octavo_operator.local import front, replica, upstream
from octavo_operator.metrics_api import announcement, scraper, series
from octavo_operator.metrics_api.__main__ import _parser as metrics_api_parser
from octavo_operator.metrics_api.serving_certificate import SERVING_RENEWED_DAYS
from octavo_operator.planner import demand, hardware, lifecycle
from octavo_operator.reconcile.upgrades.campaign import ROW
from octavo_operator.runtimes import RUNTIMES
from octavo_operator.settings import Rates, Settings

GIB, KIB = 1024 * MIB, 1024
WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 8: "eight"}
OCTAVO, VLLM = RUNTIMES["octavo"], RUNTIMES["vllm"]
RATES, SETTINGS = Rates(), Settings()
API_PERIOD = metrics_api_parser().get_default("scrape_period")
PORT = metrics_api_parser().get_default("secure_port")
START_TIMEOUT = ServerConfig().start_timeout


def body_mib(length: int) -> int:
    model = ModelConfig(model="m", served_model_names=("m",))
    return limits_of(EngineConfig(model=model), length).body_bytes // MIB


def capability(runtime) -> str:
    return ".".join(map(str, runtime.capability))


def probe(probe) -> str:
    return f"`{probe.path}` every {probe.period} s, {probe.failures} failures"


def small_plan(**accelerator):
    return planned(accelerator=accelerator or {"vendor": "cpu"})


PLAN = small_plan()
HEALTH = PLAN.lifecycle
PHRASES: dict[str, list[str]] = {
    "docs/life-of-a-manifest.md": [
        (
            f"start budget | {RATES.start_on_gpu_s:g} s on GPUs, {RATES.start_on_cpu_s:g} s on a CPU, "
            f"+ size ÷ {RATES.load_bytes_per_s / 1e6:g} MB/s, + size ÷ {RATES.download_bytes_per_s / 1e6:g} MB/s"
        ),
        f"at least {lifecycle.SHORTEST_STARTUP_S} s; {lifecycle.UNKNOWN_STARTUP_S // 60} min for an unknown size",
        f"(octavo: `--start-timeout`, {START_TIMEOUT:g} s)",
        f"readiness | {probe(HEALTH.readiness)}",
        f"liveness | {probe(HEALTH.liveness)}",
        f"preStop | sleep {lifecycle.PRE_STOP_S} s",
        (
            f"`maxModelLen` ÷ {RATES.tokens_per_s_on_gpu:g} tokens/s ({RATES.tokens_per_s_on_cpu:g} on a CPU), "
            f"within {SETTINGS.shortest_drain_s} s and {SETTINGS.longest_drain_s} s"
        ),
        f"grace | preStop + drain + {lifecycle.MARGIN_S} s",
        f"no request has come for {WORDS[QUIET_SECONDS]} seconds",
        f"{demand.CONTEXT_ON_GPU // MIB} MiB of context and libraries, {demand.COLLECTIVES // MIB} MiB of NCCL's",
        f"{OCTAVO.graph_bytes // MIB} MiB of CUDA graphs",
        f"A CPU has {OCTAVO.cpu_bytes // MIB} MiB (vLLM: {VLLM.cpu_bytes // GIB} GiB)",
        f"± {demand.ERROR / 1000 / MIB:.1f} GiB on one GPU, ± {demand.ERROR_OF_SEVERAL / 1000 / MIB:.1f} GiB on several",
        f"octavo's kernels need {capability(OCTAVO)}, vLLM {capability(VLLM)}",
        (
            f"{hardware.PROCESS_BESIDE_GPU // GIB} GiB, what the largest requests take ({hardware.REQUESTS_OF_OTHERS // GIB} "
            f"GiB where a runtime does not bound them), and for each GPU {hardware.RANK_BESIDE_GPU // GIB} GiB"
        ),
        f"on a CPU {hardware.CPU_ALONE}",
        (
            f"room for {demand.SEQUENCES_ON_CPU} sequences of `maxModelLen`, within {demand.LEAST_KV_ON_CPU // MIB} MiB and "
            f"{demand.MOST_KV_ON_CPU // GIB} GiB"
        ),
        f"headers ({upstream.LONGEST_HEADER // KIB} KiB a line)",
        f"reads nothing for {WORDS[front.STALL_S / 60]} minutes",
        f"started again after 1, 2, 4 … {replica.LONGEST_PAUSE_S:g} s",
        f"exit status {replica.CONFIG_ERROR}",
        f"fails {WORDS[replica.HOPELESS]} times without ever having been ready",
        f"{WORDS[workers.WORKERS]} at once; lists the services each {workers.LISTING_S:g} s",
        f"1, 2, 4 … {workers.UNHEALTHY_S:g} s after a failure, {workers.WAITING_S:g} s after a refusal",
    ],
    "docs/autoscaling.md": [
        f"scraped every {API_PERIOD:g} s by a task of its own, with a deadline of {scraper.DEADLINE_S:g} s",
        f"doubles up to {scraper.LONGEST_PAUSE_S:g} s",
        f"older than {WORDS[series.STALE_PERIODS]} periods",
        f"over the last {series.WINDOW_S:g} s",
        f"({WORDS[round(5 * hpa.BUSY)]} fifths of `maxNumSeqs` are a full replica)",
        f"({hpa.BUSY:.0%} is a full replica)".replace("%", " %"),
        f"(from {hpa.SHORTEST_STEP_S // 60} to {hpa.LONGEST_STEP_S // 60} min)",
        f"(from {hpa.SHORTEST_LULL_S // 60} to {hpa.LONGEST_LULL_S // 60} min)",
        f"renews it {SERVING_RENEWED_DAYS} days before its end",
        f"when none has been for {announcement.UNSERVED_S:g} s",
        f"after {announcement.FIRST_PAUSE_S:g} s, 1 min, 2 min … {announcement.LONGEST_PAUSE_S / 60:g} min",
        f"({PORT} by default",
    ],
    "docs/reference/http.md": [
        (
            f"up to {http_server.MAX_HEADER // KIB} KiB each, {http_server.MAX_HEADERS} in all; path and query up to "
            f"{http_server.MAX_TARGET // KIB} KiB"
        ),
        f"JSON of {body_mib(1)} to {body_mib(10**9)} MiB by the model's context",
        f"up to {admission.MAX_REQUEST_ID} printable ASCII characters",
        f"`Retry-After` follows the queue, 1 to {LONGEST_SECONDS} s",
        {0.5: "after half a second without one"}[event_stream.BEGIN_SECONDS],
        f"After {event_stream.QUIET_SECONDS:g} s without an event",
    ],
    "docs/reference/limits.md": [
        f"by its pace of late: 1 to {LONGEST_SECONDS} s",
        f"for more than {loop_watch.LATE_SECONDS:g} s",
        f"{body_mib(1)} to {body_mib(10**9)} MiB",
    ],
    "docs/gpu.md": [f"By default it is {GPU_SWAP_GIB:g} GiB"],
    "docs/several-ranks.md": [f"within `--health-timeout` ({ServerConfig().health_timeout:g} s)"],
    "docs/installing.md": [f"{WORDS[ROW]} of them in a row"],
    "images/README.md": [f"As user {pod.USER}", f"compute capability {capability(OCTAVO)}"],
    "charts/octavo/values.yaml": [f"Fixed is {pod.USER}"],
    "docs/reference/serve-flags.md": [
        f"| {GPU_SWAP_GIB:g} with a GPU, 0 without |",
        f"| by the context length, {body_mib(1)} to {body_mib(10**9)} MiB |",
    ],
}
ON_GPU, ON_CPU = small_plan(vendor="nvidia").limits, PLAN.limits
DESCRIPTIONS = {
    "spec.engine.maxNumSeqs": f"by default {ON_GPU.max_num_seqs} on GPUs and {ON_CPU.max_num_seqs} on a CPU",
    "spec.engine.maxNumBatchedTokens": f"by default {ON_GPU.max_num_batched_tokens} on GPUs and "
    f"{ON_CPU.max_num_batched_tokens} on a CPU",
    "spec.accelerator.resourceName": f"by default {small_plan(vendor='nvidia').hardware.resource_name}.",
}


def text_of(page: str) -> str:
    """A document on one line, without the marks of comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return " ".join((re.sub(r"^ *# ?", "", text, flags=re.MULTILINE) if page.endswith(".yaml") else text).split())


@pytest.mark.parametrize(("page", "phrase"), [(page, phrase) for page, each in PHRASES.items() for phrase in each])
def test_a_page_has_the_number_of_the_code(page, phrase):
    assert phrase in text_of(page)


@pytest.mark.parametrize("field", DESCRIPTIONS)
def test_a_field_describes_the_default_that_is_planned(field):
    (row,) = re.findall(rf"^\| `{field}` .*$", (ROOT / "docs/reference/llmservice.md").read_text(), re.MULTILINE)
    assert DESCRIPTIONS[field] in row


@pytest.mark.parametrize(("page", "end"), [("README.md", "stay open"), ("SECURITY.md", "are open to all")])
def test_a_page_names_all_paths_that_need_no_key(page, end):
    (sentence,) = re.findall(rf"((?:`/[\w.]+`(?:, | and )?)+) {end}", text_of(page))
    assert set(re.findall(r"`(/[\w.]+)`", sentence)) == set(OPEN_PATHS)


def test_the_page_of_ranks_has_the_sizes_of_the_code():
    """The ring of commands, and which sums take symmetric memory."""
    from octavo_engine.executors.torch import parallel_commands as ring
    from octavo_engine.executors.torch import parallel_group, parallel_symmetric

    two, four, eight = parallel_symmetric.ONE_SHOT_BYTES.values()
    buffer = parallel_symmetric.BUFFER_BYTES // MIB
    text = text_of("docs/several-ranks.md")
    for phrase in (
        f"a ring of {ring.NUM_SLOTS} messages in shared memory",
        f"one of more than {ring.SLOT_BYTES // KIB} KiB",
        f'("one-shot") | up to {two // MIB} MiB | up to {four // KIB} KiB | up to {eight // KIB} KiB |',
        f"(NVSwitch with multicast) | up to {buffer} MiB | up to {buffer} MiB | up to {buffer} MiB |",
        f"The buffer takes {buffer} MiB of each GPU",
        f"is missed after {parallel_group.VANISHED.seconds // 60 or 'less than'} minute".replace(
            "1 minute", "a minute"
        ),
    ):
        assert phrase in text, phrase


def test_the_page_of_kernels_has_the_sizes_of_the_code():
    """The graphs' sizes, and the length of a step that is replayed."""
    from octavo_engine.executors.torch.graphs import MOST_TOKENS, ladder

    text = text_of("docs/kernels.md")
    sizes = ladder(256)
    for phrase in (
        f"{', '.join(map(str, sizes[:9]))} … `--max-num-seqs`",
        f"{2 * len(sizes)} for 256 requests",
        f"steps of up to {MOST_TOKENS:,} tokens together",
    ):
        assert phrase in text, phrase


def test_the_versions_that_are_needed_are_one():
    """The chart, the package and the tests name one version of Kubernetes and of Python."""
    chart = yaml.safe_load((ROOT / "charts/octavo/Chart.yaml").read_text())
    (least,) = re.findall(r">= ?(1\.\d+)", chart["kubeVersion"])
    (tested,) = re.findall(r'^VERSION = "v(.+)"$', (ROOT / "scripts/kubernetes/build.py").read_text(), re.MULTILINE)
    for page in ("README.md", "docs/installing.md"):
        assert f"Kubernetes {least} or newer (tested on {tested})" in text_of(page)
    (python,) = re.findall(r'^requires-python = ">=(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"Python {python} or newer" in text_of("README.md")
    assert f"< ({python.replace('.', ', ')})" in (ROOT / "Makefile").read_text()
