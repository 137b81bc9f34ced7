"""A replica's start, end and replacement are one chain of deadlines, each with its reason."""

import pytest
from octavo_testing.planner_cases import CPU, LLAMA_70B, MISTRAL_7B, SMALL, claim, on_a100, planned, service

from octavo_operator.planner.storage import referenced


def test_the_start_up_budget_follows_the_models_size():
    small = planned(SMALL, accelerator=CPU, cache={}).lifecycle.expected
    large = planned(LLAMA_70B, cache={}, **on_a100(4)).lifecycle.expected
    assert small == 120
    # 128.5 GiB at 100 MB/s, and five minutes for the GPUs.
    assert large == 1680


def test_a_start_that_moves_is_killed_by_no_budget():
    """octavo's engine sees its own progress (`--start-timeout`); vLLM's does not, so that time alone decides."""
    ours = planned(LLAMA_70B, cache={}, **on_a100(4)).lifecycle
    theirs = planned(LLAMA_70B, cache={}, **on_a100(4, runtime="vllm")).lifecycle
    assert ours.expected == theirs.expected == theirs.startup.budget == 1680
    assert ours.startup.budget == 24 * 3600


def test_a_pod_that_downloads_has_the_time_for_it():
    cached = planned(MISTRAL_7B, cache={}, **on_a100()).lifecycle.expected
    preload_off = planned(MISTRAL_7B, cache={"preload": False}, **on_a100()).lifecycle.expected
    without = planned(MISTRAL_7B, **on_a100()).lifecycle.expected
    assert without == preload_off > cached + 14.4e9 / 50e6 - 10


def test_a_model_on_a_volume_is_not_downloaded():
    plan = planned(MISTRAL_7B, model={"uri": "pvc://models/a"}, **on_a100())
    assert plan.lifecycle.expected == planned(MISTRAL_7B, cache={}, **on_a100()).lifecycle.expected
    assert not any("downloads" in warning for warning in plan.warnings)


def test_an_unknown_model_has_half_an_hour():
    assert planned(None).lifecycle.expected == 1800


def test_liveness_outlasts_readiness_and_asks_the_heartbeat():
    life = planned(MISTRAL_7B, **on_a100()).lifecycle
    assert life.startup.path == life.readiness.path == life.liveness.path == "/health"
    assert life.liveness.budget > life.readiness.budget


@pytest.mark.parametrize(
    ("spec", "drain"),
    [
        (on_a100(), 205),  # 4096 tokens at 20/s
        (on_a100(maxModelLen=32768), 585),  # bounded
        (on_a100(maxModelLen=100), 30),
        ({"accelerator": CPU, "engine": {"maxModelLen": 2048}}, 205),  # 10/s
        (on_a100() | {"rollout": {"drainTimeout": "45m"}}, 2700),
        (on_a100() | {"rollout": {"drainTimeout": "0"}}, 0),
    ],
)
def test_the_drain_is_the_longest_admissible_generation_within_bounds(spec, drain):
    life = planned(MISTRAL_7B, **spec).lifecycle
    assert life.drain == drain
    assert life.grace == life.pre_stop + drain + 10


def test_a_drain_that_cuts_answers_off_is_reported():
    plan = planned(MISTRAL_7B, **on_a100(maxModelLen=32768))
    assert any("cuts off answers after 585 s; the longest may take 1639 s" in w for w in plan.warnings)


@pytest.mark.parametrize(
    ("spec", "free", "expected"),
    [
        (on_a100(4), 4, ("Surge", 1, 0, False)),
        (on_a100(4), 3, ("InPlace", 0, 1, True)),
        (on_a100(4), None, ("InPlace", 0, 1, True)),
        (on_a100(1) | {"replicas": 2}, 0, ("InPlace", 0, 1, False)),
        (on_a100(1) | {"rollout": {"strategy": "Surge"}}, 0, ("Surge", 1, 0, False)),
        (on_a100(1) | {"rollout": {"strategy": "InPlace"}}, 9, ("InPlace", 0, 1, True)),
        (on_a100(1) | {"autoscaling": {"maxReplicas": 4}}, 0, ("InPlace", 0, 1, False)),
        ({"accelerator": CPU}, None, ("Surge", 1, 0, False)),
    ],
)
def test_a_rollout_surges_only_where_a_gpu_is_free_for_it(spec, free, expected):
    rollout = planned(None, {"free_gpus": free}, **spec).rollout
    assert (rollout.strategy, rollout.max_surge, rollout.max_unavailable, rollout.recreate) == expected
    assert rollout.reason


def test_gpus_are_tensor_times_pipeline():
    plan = planned(None, engine={"tensorParallelSize": 4, "pipelineParallelSize": 2})
    assert plan.hardware.gpus == 8
    assert plan.resources.requests["nvidia.com/gpu"] == plan.resources.limits["nvidia.com/gpu"] == "8"


def test_a_cpu_asks_for_no_gpu():
    plan = planned(SMALL, accelerator=CPU)
    assert plan.hardware.gpus == 0
    assert not any("gpu" in name for name in plan.resources.limits)


def test_the_manifests_resources_win():
    requests = {"requests": {"cpu": "4", "memory": "32Gi"}}
    resources = planned(MISTRAL_7B, resources=requests, sharedMemory="16Gi", cache={}, **on_a100()).resources
    assert resources.requests == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert resources.shared_memory == "16Gi"


def test_one_gpu_of_a_machine_of_4_cpus_and_16_gib_is_enough_by_default():
    """The tutorial's prerequisite. Such a node's pods can ask for about 3.9 CPUs and, on GKE, 12.3 GiB."""
    requests = planned(None, engine={"maxModelLen": 2048}, sharedMemory="8Gi").resources.requests
    assert requests == {"cpu": "2", "memory": "9Gi", "nvidia.com/gpu": "1"}


def test_two_replicas_fit_a_cluster_of_two_cores_by_default():
    """Beside what one node has of its own; a surge needs the second one."""
    plan = planned(SMALL, accelerator=CPU)
    assert plan.resources.requests["cpu"] == "400m"
    assert any("requests CPU 400m and memory" in why and "resources.requests.cpu" in why for why in plan.reasons)
    found = planned(SMALL, accelerator=CPU, resources={"requests": {"cpu": "3", "memory": "2Gi"}})
    assert not any("by default" in why for why in found.reasons)


def test_host_memory_follows_what_is_really_taken():
    """vLLM has no swap space; torch pins the next power of two."""

    def memory(**engine) -> str:
        return planned(None, engine=engine).resources.requests["memory"]

    assert memory(runtime="vllm") == "5Gi"
    assert memory(swapSpace="0") == "5Gi"
    assert memory(swapSpace="5Gi") == "13Gi"
    assert memory(tensorParallelSize=4) == "27Gi"


def test_what_a_pod_downloads_is_asked_of_the_nodes_disk():
    assert planned(MISTRAL_7B, **on_a100()).resources.requests["ephemeral-storage"] == "15Gi"
    for spec in ({"cache": {}}, {"model": {"uri": "pvc://claim/path"}}):
        assert "ephemeral-storage" not in planned(MISTRAL_7B, **spec, **on_a100()).resources.requests
    own = {"requests": {"ephemeral-storage": "1Gi"}}
    assert planned(MISTRAL_7B, resources=own, **on_a100()).resources.requests["ephemeral-storage"] == "1Gi"


def test_a_cache_is_sized_by_its_model():
    assert planned(LLAMA_70B, cache={}, **on_a100(4)).cache.size == "270Gi"
    assert planned(SMALL, cache={}, accelerator=CPU).cache.size == "1Gi"
    assert planned(None, cache={}).cache.size == "100Gi"
    assert planned(MISTRAL_7B, cache={"size": "50Gi"}, **on_a100()).cache.size == "50Gi"


def test_a_claim_that_exists_keeps_its_size_unless_its_model_no_longer_fits():
    """Its model may have become known since, or may be another one now."""
    there = {"children": (claim(),)}
    assert planned(LLAMA_70B, there, cache={}, **on_a100(4)).cache.size == "270Gi"
    assert planned(MISTRAL_7B, there, cache={}, **on_a100()).cache.size == "100Gi"
    assert planned(None, {"children": (claim(size="7Gi"),)}, cache={}).cache.size == "7Gi", "its size is not known"


def test_a_claim_without_a_volume_cannot_grow():
    there = {"children": (claim(phase="Pending"),)}
    assert planned(LLAMA_70B, there, cache={}, **on_a100(4)).cache.size == "100Gi"
    assert "cache.size: 270Gi is enough" in "".join(planned(LLAMA_70B, there, cache={}, **on_a100(4)).warnings)


def test_a_claim_is_the_larger_of_what_it_is_and_what_the_manifest_says():
    """A claim cannot shrink: the API server would refuse every later change of it."""
    there = {"children": (claim(),)}
    assert planned(MISTRAL_7B, there, cache={"size": "200Gi"}, **on_a100()).cache.size == "200Gi"
    assert planned(MISTRAL_7B, there, cache={"size": "50Gi"}, **on_a100()).cache.size == "100Gi"


def test_the_claim_that_the_service_made_stays_its_own_where_the_manifest_names_it():
    """Taken for another's, it would be removed with the download in it; as an existing claim it has no owner."""
    there = {"children": (claim(),)}
    cache = planned(MISTRAL_7B, there, cache={"existingClaim": "svc-cache"}, **on_a100()).cache
    assert (cache.claim, cache.create, cache.retain, cache.size) == ("svc-cache", True, True, "100Gi")


def test_an_existing_claim_is_used_and_not_made():
    plan = planned(MISTRAL_7B, cache={"existingClaim": "mine"}, **on_a100())
    assert (plan.cache.claim, plan.cache.create, plan.cache.retain) == ("mine", False, True)
    assert "PersistentVolumeClaim" not in {child.kind for child in plan.children}


@pytest.mark.parametrize("name", ["", "../../secrets/token", "x?watch=true", "x/status", "Upper", 7, None])
def test_what_is_no_name_of_a_claim_is_never_asked_for(name):
    """podTemplate may hold anything, and the operator asks for what it names by a path of the API server."""
    volumes = [{"name": "a", "persistentVolumeClaim": {"claimName": each}} for each in (name, "mine")]
    assert referenced(service(podTemplate={"spec": {"volumes": volumes}})) == ("mine",)


def test_several_replicas_share_a_cache_that_all_can_mount():
    assert planned(None, cache={}, replicas=2).cache.access_mode == "ReadWriteMany"
    assert planned(None, cache={}).cache.access_mode == "ReadWriteOnce"
    assert planned(None, cache={"accessMode": "ReadWriteOnce"}, replicas=2).cache.colocated


def test_a_suspended_service_keeps_everything_but_its_replicas():
    plan = planned(None, suspend=True, autoscaling={"maxReplicas": 3})
    assert plan.scale.replicas == 0
    assert "suspended: no replica runs, everything else stays" in plan.reasons


def test_the_same_input_gives_the_same_plan():
    assert planned(MISTRAL_7B, **on_a100()) == planned(MISTRAL_7B, **on_a100())
