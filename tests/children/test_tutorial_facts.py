"""Each fact of the tutorial's Kubernetes manifests holds in the children of the sample that stands for it.

Names follow the LLMService, and labels are ours; what a cluster does with the objects is what is compared.
"""

from __future__ import annotations

from itertools import pairwise

from octavo_testing.children_cases import engine_of, kinds, only, pod_of, rendered_sample, terms_of

from octavo_operator.api.quantity import Quantity
from octavo_operator.planner.node_labels import matches
from octavo_operator.planner.plan import Requirement


def flag(children, name: str) -> str:
    return next(value for flag, value in pairwise(engine_of(children)["args"]) if flag == name)


def mounts(children) -> dict[str, dict]:
    """The mounted volumes, by path."""
    volumes = {volume["name"]: volume for volume in pod_of(children)["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in engine_of(children)["volumeMounts"]}


class TestMistralOnAnA100:
    """`vllm-mistral`: Deployment and Service."""

    children = rendered_sample("mistral")

    def test_it_is_one_replica_in_its_namespace(self):
        deployment = only(self.children, "Deployment")
        assert deployment["metadata"]["name"] == "vllm-mistral"
        assert deployment["metadata"]["namespace"] == "llm-serving"
        assert deployment["spec"]["replicas"] == 1

    def test_the_selector_finds_the_pods(self):
        spec = only(self.children, "Deployment")["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()

    def test_model_and_length_are_the_engines_arguments(self):
        assert flag(self.children, "--model") == "mistralai/Mistral-7B-Instruct-v0.2"
        assert flag(self.children, "--max-model-len") == "4096"

    def test_one_gpu_is_not_split(self):
        assert flag(self.children, "--tensor-parallel-size") == "1"

    def test_the_container_listens_on_8000(self):
        (port,) = engine_of(self.children)["ports"]
        assert port["containerPort"] == 8000
        assert flag(self.children, "--port") == "8000"

    def test_it_has_one_gpu_and_what_it_requested(self):
        resources = engine_of(self.children)["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == "1"
        assert resources["requests"] == {"nvidia.com/gpu": "1", "memory": "32Gi", "cpu": "4"}

    def test_the_hubs_token_comes_from_the_secret(self):
        """HF_TOKEN, which the hub's library has preferred to HUGGING_FACE_HUB_TOKEN for years."""
        (token,) = [each for each in engine_of(self.children)["env"] if each["name"] == "HF_TOKEN"]
        assert token["valueFrom"] == {"secretKeyRef": {"name": "hf-token", "key": "token"}}

    def test_the_hubs_cache_lies_at_the_root_of_the_claim(self):
        """/root/.cache/huggingface would need root; HF_HOME says where it is instead."""
        (home,) = [each["value"] for each in engine_of(self.children)["env"] if each["name"] == "HF_HOME"]
        assert mounts(self.children)[home]["persistentVolumeClaim"] == {"claimName": "model-cache-pvc"}

    def test_it_runs_on_the_gpu_in_the_image_that_can(self):
        assert engine_of(self.children)["image"].endswith("-cuda")
        assert flag(self.children, "--executor") == "torch"
        assert flag(self.children, "--device") == "cuda"

    def test_its_pods_are_found_as_the_tutorial_finds_them(self):
        """kubectl wait --for=condition=ready pod -l app=…"""
        deployment = only(self.children, "Deployment")
        assert deployment["metadata"]["labels"]["app"] == "vllm-mistral"
        assert deployment["spec"]["template"]["metadata"]["labels"]["app"] == "vllm-mistral"
        assert "app" not in deployment["spec"]["selector"]["matchLabels"]
        (job,) = [each for each in self.children if each["kind"] == "Job"]
        assert "app" not in job["spec"]["template"]["metadata"]["labels"]

    def test_shared_memory_is_held_in_memory_and_16_gib(self):
        assert mounts(self.children)["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}

    def test_it_runs_on_that_gpu_alone(self):
        """The tutorial's node selector, and the same GPU by the labels of platforms without feature discovery."""
        nodes = {
            "NVIDIA-A100-SXM4-40GB": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"},
            "GKE's": {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"},
            "NVIDIA-L4": {"nvidia.com/gpu.product": "NVIDIA-L4"},
            "GKE's 80 GB": {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"},
        }
        terms = [
            tuple(Requirement(e["key"], e["operator"], tuple(e.get("values", ()))) for e in term)
            for term in terms_of(pod_of(self.children))
        ]
        assert [name for name, labels in nodes.items() if matches(terms, labels)] == ["NVIDIA-A100-SXM4-40GB", "GKE's"]

    def test_the_service_is_within_the_cluster_on_port_8000(self):
        spec = only(self.children, "Service")["spec"]
        assert spec["type"] == "ClusterIP"
        (port,) = spec["ports"]
        assert port["port"] == 8000
        ports = {each["name"]: each["containerPort"] for each in engine_of(self.children)["ports"]}
        assert ports[port["targetPort"]] == 8000
        labels = only(self.children, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert spec["selector"].items() <= labels.items()


class TestTheServiceMonitor:
    """`vllm-metrics`."""

    children = rendered_sample("mistral")

    def test_it_scrapes_the_port_http_every_15_seconds(self):
        assert only(self.children, "ServiceMonitor")["spec"]["endpoints"] == [
            {"port": "http", "path": "/metrics", "interval": "15s"}
        ]

    def test_it_finds_exactly_one_service_whose_port_has_that_name(self):
        """In the tutorial the Service's port has no name, so its ServiceMonitor finds nothing."""
        wanted = only(self.children, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
        services = [each for each in self.children if each["kind"] == "Service"]
        (found,) = [each for each in services if wanted.items() <= each["metadata"]["labels"].items()]
        assert [port["name"] for port in found["spec"]["ports"]] == ["http"]


class TestTheAutoscaler:
    """`vllm-hpa`."""

    children = rendered_sample("mistral-autoscaled")

    def test_it_scales_the_deployment_between_one_and_four(self):
        spec = only(self.children, "HorizontalPodAutoscaler")["spec"]
        name = only(self.children, "Deployment")["metadata"]["name"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 4)

    def test_it_adds_a_replica_above_ten_waiting_requests(self):
        waiting = only(self.children, "HorizontalPodAutoscaler")["spec"]["metrics"][0]
        assert waiting["type"] == "Pods"
        assert waiting["pods"]["metric"] == {"name": "vllm_num_requests_waiting"}
        assert waiting["pods"]["target"] == {"type": "AverageValue", "averageValue": "10"}

    def test_the_deployment_leaves_its_replicas_alone(self):
        assert "replicas" not in only(self.children, "Deployment")["spec"]


class TestTwoModels:
    """`vllm-mistral-7b` and `vllm-llama-70b`."""

    mistral = rendered_sample("two-models-mistral")
    llama = rendered_sample("two-models-llama")

    def test_they_have_two_replicas_and_one(self):
        assert only(self.mistral, "Deployment")["spec"]["replicas"] == 2
        assert only(self.llama, "Deployment")["spec"]["replicas"] == 1

    def test_they_have_one_gpu_and_four(self):
        assert engine_of(self.mistral)["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert engine_of(self.llama)["resources"]["limits"]["nvidia.com/gpu"] == "4"

    def test_the_large_one_is_split_across_its_gpus(self):
        assert flag(self.llama, "--model") == "meta-llama/Llama-2-70b-chat-hf"
        assert flag(self.llama, "--tensor-parallel-size") == "4"

    def test_they_do_not_find_each_others_pods(self):
        selectors = [only(each, "Deployment")["spec"]["selector"]["matchLabels"] for each in (self.mistral, self.llama)]
        labels = only(self.llama, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert not selectors[0].items() <= labels.items()
        assert selectors[1].items() <= labels.items()


class TestTheChatbot:
    """`vllm-server`: Deployment and Service of the exercise."""

    children = rendered_sample("phi-2")

    def test_model_and_length_are_the_engines_arguments(self):
        assert only(self.children, "Deployment")["metadata"]["namespace"] == "llm-demo"
        assert flag(self.children, "--model") == "microsoft/phi-2"
        assert flag(self.children, "--max-model-len") == "2048"

    def test_it_has_one_gpu_of_any_kind(self):
        assert engine_of(self.children)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
        assert "nodeSelector" not in pod_of(self.children)

    def test_shared_memory_is_held_in_memory_and_8_gib(self):
        assert mounts(self.children)["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}

    def test_the_service_answers_on_port_8000(self):
        assert only(self.children, "Service")["metadata"]["name"] == "vllm-server"
        assert only(self.children, "Service")["spec"]["ports"][0]["port"] == 8000


class TestTheMistakesOfABeginner:
    """The table of common mistakes, as far as a child answers it."""

    def test_no_deployment_lacks_shared_memory(self):
        for case in ("phi-2", "smollm2", "mistral", "two-models-llama"):
            shm = mounts(rendered_sample(case))["/dev/shm"]["emptyDir"]
            assert shm["medium"] == "Memory"
            assert Quantity(shm["sizeLimit"]) > Quantity("0")

    def test_several_replicas_are_never_drained_at_once(self):
        assert "PodDisruptionBudget" in kinds(rendered_sample("two-models-mistral"))
