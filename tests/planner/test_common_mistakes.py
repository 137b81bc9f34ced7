"""Each common mistake of a first deployment is answered: by a default that avoids it, or by a warning."""

import pytest
from octavo_testing.planner_cases import A100_40, CPU, LLAMA_70B, MISTRAL_7B, SMALL, on_a100, planned


def warned(plan, words: str) -> bool:
    return any(words in warning for warning in plan.warnings)


def test_gpu_memory_utilization_has_a_default_and_its_extremes_are_reported():
    assert "--gpu-memory-utilization" in planned(MISTRAL_7B).engine.arguments
    assert not warned(planned(MISTRAL_7B, **on_a100()), "gpuMemoryUtilization")
    assert warned(
        planned(MISTRAL_7B, **on_a100(gpuMemoryUtilization=0.5)), "leaves memory, 19.8 GiB of each GPU, unused"
    )
    assert warned(planned(MISTRAL_7B, **on_a100(gpuMemoryUtilization=0.99)), "out-of-memory is likely")


def test_a_wrong_tensor_parallel_size_is_refused_where_too_small_and_reported_where_wasteful():
    assert planned(LLAMA_70B, **on_a100(2)).refusal.remedy == "set engine.tensorParallelSize: 4"
    assert warned(planned(MISTRAL_7B, **on_a100(4)), "tensorParallelSize 4 where 1 holds 40 sequences")
    assert not warned(planned(LLAMA_70B, **on_a100(4)), "tensorParallelSize")


@pytest.mark.parametrize(("size", "shm"), [(1, "4Gi"), (4, "16Gi"), (8, "16Gi")])
def test_shared_memory_is_always_mounted_and_grows_with_the_gpus(size, shm):
    assert planned(None, engine={"tensorParallelSize": size}).resources.shared_memory == shm


def test_too_little_shared_memory_is_reported():
    assert warned(planned(None, sharedMemory="64Mi", engine={"tensorParallelSize": 2}), "NCCL crashes under load")


def test_shared_memory_that_eats_the_containers_is_reported():
    plan = planned(None, sharedMemory="16Gi", resources={"limits": {"memory": "20Gi"}})
    assert warned(plan, "shared memory may take 16.0 GiB of the container's 20.0 GiB")


def test_batches_of_several_replicas_are_reported():
    """Files lie with the replica that took them, and the next request goes to another."""
    engine = {"args": ["--batch-dir", "/var/cache/octavo/batches"]}
    assert warned(
        planned(None, engine=engine, replicas=2), "--batch-dir gives each replica files and batches of its own"
    )
    assert not warned(planned(None, engine=engine, replicas=1), "--batch-dir")


def test_weights_without_a_cache_are_reported_with_their_size():
    assert warned(
        planned(MISTRAL_7B, **on_a100()), "no cache: each new pod downloads 13.5 GiB again; cache: {} keeps it"
    )
    assert not warned(planned(MISTRAL_7B, cache={}, **on_a100()), "downloads")


def test_a_context_length_that_is_not_set_is_reported_where_it_takes_the_room():
    plan = planned(MISTRAL_7B, accelerator={"products": [A100_40]})
    assert warned(plan, "engine.maxModelLen is not set: at the model's own 32768 tokens 5 full sequences fit")
    assert "maxModelLen 32768: the model's own" in plan.reasons
    assert not warned(planned(MISTRAL_7B, **on_a100()), "maxModelLen is not set")
    assert warned(planned(None), "engine.maxModelLen is not set and the model's own limit is not known")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "one replica: an eviction is an outage and so is each change; replicas: 2 would avoid it"),
        ({"accelerator": CPU}, "one replica: an eviction is an outage; replicas: 2 would avoid it"),
        ({"autoscaling": {"maxReplicas": 4}}, "autoscaling.minReplicas: 2 would avoid it"),
        ({"autoscaling": {"maxReplicas": 1}}, "autoscaling.minReplicas and maxReplicas: 2 would avoid it"),
    ],
)
def test_a_single_replica_is_reported(spec, words):
    assert warned(planned(SMALL, **spec), words)


def test_two_replicas_get_a_disruption_budget_and_no_warning():
    plan = planned(SMALL, replicas=2)
    assert not warned(plan, "one replica")
    assert "PodDisruptionBudget" in {child.kind for child in plan.children}


def test_a_claim_that_ties_replicas_to_one_node_is_reported():
    assert warned(planned(None, cache={"accessMode": "ReadWriteOnce"}, replicas=3), "ties all 3 replicas to one node")


def test_a_claim_that_one_pod_at_a_time_may_have_serves_one_replica():
    """The others would be Pending for good."""
    alone = {"cache": {"accessMode": "ReadWriteOncePod"}}
    assert warned(planned(None, **alone, replicas=2), "of 2 replicas one starts")
    assert warned(planned(None, **alone, autoscaling={"maxReplicas": 3}), "of 3 replicas one starts")
    assert not warned(planned(None, **alone), "one starts")


def test_a_cache_that_is_too_small_is_reported():
    assert warned(
        planned(MISTRAL_7B, cache={"size": "10Gi"}, **on_a100()), "cache.size 10Gi is less than the model's 13.5 GiB"
    )


def test_a_public_service_without_keys_is_reported():
    assert warned(planned(None, service={"type": "LoadBalancer"}), "answers every client that reaches it")
    keys = {"apiKeys": {"secretName": "k"}}
    assert not warned(planned(None, service={"type": "LoadBalancer"}, auth=keys), "answers every client")


def test_network_peers_without_a_policy_are_reported():
    assert warned(planned(None, networkPolicy={"allowFrom": [{}]}), "networkPolicy.allowFrom has no effect")
