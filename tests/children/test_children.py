"""The effect of each field of the manifest on the children."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from octavo_testing.children_cases import engine_of, kinds, only, planned, pod_of, rendered, terms_of
from octavo_testing.planner_cases import CPU, SMALL, claim, service

from octavo_operator.api.labels import selector_text
from octavo_operator.children import render
from octavo_operator.children.preload_job import DOWNLOAD, TEMPLATE

ROOT = Path(__file__).parents[2]
AUTO = {"minReplicas": 2, "maxReplicas": 5}


def test_a_refused_service_has_no_children():
    assert rendered(engine={"runtime": "tgi"}) == ()


@pytest.mark.parametrize("spec", [{}, {"cache": {}}, {"autoscaling": AUTO}, {"networkPolicy": {"enabled": True}}])
def test_the_plan_names_what_is_rendered(spec):
    """`octavo plan` and the operator say the same."""
    made = planned(service(**spec), SMALL)
    assert sorted((each.kind, each.name) for each in made.children) == sorted(
        (each["kind"], each["metadata"]["name"]) for each in render(made)
    )


def test_a_suspended_service_keeps_all_but_its_replicas_and_its_autoscaler():
    awake = rendered(autoscaling=AUTO, cache={"size": "1Gi"})
    asleep = rendered(autoscaling=AUTO, cache={"size": "1Gi"}, suspend=True)
    assert only(asleep, "Deployment")["spec"]["replicas"] == 0
    assert set(kinds(awake)) - set(kinds(asleep)) == {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
    assert only(asleep, "PersistentVolumeClaim") == only(awake, "PersistentVolumeClaim")
    assert only(asleep, "Deployment")["spec"]["template"] == only(awake, "Deployment")["spec"]["template"]


def test_labels_and_annotations_reach_the_service_and_the_service_monitor():
    """A load balancer reads annotations, a Prometheus selects by a label; our own labels can't be taken over."""
    marks = {
        "labels": {"release": "kps", "octavo.dev/service": "other"},
        "annotations": {"example.com/internal": "true"},
    }
    children = rendered(service=marks, monitoring=marks)
    front = only(children, "Service", "svc")
    for child in (front, only(children, "ServiceMonitor")):
        assert child["metadata"]["labels"]["release"] == "kps"
        assert child["metadata"]["labels"]["octavo.dev/service"] == "svc"
        assert child["metadata"]["annotations"] == marks["annotations"]


def test_a_network_policy_lets_prometheus_in_where_its_namespace_is_named():
    policy = only(rendered(networkPolicy={"enabled": True}, monitoring={"namespace": "monitoring"}), "NetworkPolicy")
    selectors = [peer.get("namespaceSelector", {}).get("matchLabels") for peer in policy["spec"]["ingress"][0]["from"]]
    assert {"kubernetes.io/metadata.name": "monitoring"} in selectors


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({}, True),
        ({"monitoring": {"namespace": "monitoring"}}, False),
        ({"monitoring": {"serviceMonitor": "Disabled"}}, False),
        ({"networkPolicy": {"enabled": True, "allowFrom": [{"namespaceSelector": {}}]}}, False),
        ({"networkPolicy": {"enabled": False}}, False),
    ],
)
def test_a_network_policy_that_shuts_prometheus_out_is_warned_of(more, warned):
    found = planned(service(**({"networkPolicy": {"enabled": True}} | more))).warnings
    assert any("shuts out a Prometheus" in each for each in found) == warned


class TestReplicas:
    def test_autoscaling_leaves_them_to_the_autoscaler(self):
        children = rendered(autoscaling=AUTO)
        assert "replicas" not in only(children, "Deployment")["spec"]
        spec = only(children, "HorizontalPodAutoscaler")["spec"]
        assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)

    def test_a_queue_just_emptied_does_not_shrink_what_runs_full(self):
        """The second metric: running requests, of which four fifths of the batch count as full."""
        children = rendered(autoscaling=AUTO, engine={"maxNumSeqs": 100})
        running = only(children, "HorizontalPodAutoscaler")["spec"]["metrics"][1]["pods"]
        assert running["metric"]["name"] == "vllm_num_requests_running"
        assert running["target"]["averageValue"] == "80"

    def test_a_replica_is_full_by_its_kv_cache_too(self):
        """Long prompts fill it with a few sequences, far below maxNumSeqs."""
        cache = only(rendered(autoscaling=AUTO), "HorizontalPodAutoscaler")["spec"]["metrics"][2]["pods"]
        assert cache["metric"]["name"] == "vllm_kv_cache_usage_perc"
        assert cache["target"]["averageValue"] == "800m"

    def test_a_burst_at_most_doubles_the_replicas_while_one_starts(self):
        """The next replica's effect shows once it has loaded; until then no further ones are started."""
        made = planned(service(autoscaling=AUTO), SMALL)
        upwards = only(render(made), "HorizontalPodAutoscaler")["spec"]["behavior"]["scaleUp"]
        assert [(each["type"], each["value"]) for each in upwards["policies"]] == [("Percent", 100), ("Pods", 1)]
        assert {each["periodSeconds"] for each in upwards["policies"]} == {made.lifecycle.expected}

    def test_replicas_on_cpus_grow_at_the_autoscalers_own_pace(self):
        """A minute after a queue has formed there may be three, where the start of one may take half an hour at most."""
        children = rendered(autoscaling=AUTO, accelerator={"vendor": "cpu"})
        assert set(only(children, "HorizontalPodAutoscaler")["spec"]["behavior"]) == {"scaleDown"}

    def test_metrics_and_behaviour_are_handed_on_verbatim(self):
        metric = {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 9}},
        }
        behavior = {"scaleDown": {"stabilizationWindowSeconds": 7}}
        children = rendered(autoscaling=AUTO | {"metrics": [metric], "behavior": behavior})
        spec = only(children, "HorizontalPodAutoscaler")["spec"]
        assert spec["metrics"][3:] == [metric]
        assert spec["behavior"]["scaleDown"] == behavior["scaleDown"]

    def test_scaling_by_hand_changes_nothing_of_the_pods(self):
        """Another number of replicas must not restart those that run."""
        one, three = rendered(replicas=1), rendered(replicas=3)
        assert only(one, "Deployment")["spec"]["template"] == only(three, "Deployment")["spec"]["template"]


class TestRollouts:
    def test_a_surge_waits_for_the_new_one(self):
        spec = only(rendered(rollout={"strategy": "Surge"}), "Deployment")["spec"]
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}

    def test_one_replica_in_place_is_recreated(self):
        """A surge on one GPU would be a deadlock: the new pod would wait for the GPU that the old one has."""
        assert only(rendered(observed={"free_gpus": 0}), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}

    def test_a_volume_of_one_node_is_no_place_for_a_surge(self):
        """The free GPU may be on another node than the volume."""
        spec = only(rendered(cache={}, observed={"free_gpus": 8}), "Deployment")["spec"]
        assert spec["strategy"] == {"type": "Recreate"}

    def test_a_model_that_loads_long_is_no_failed_rollout(self):
        made = planned(service(), SMALL)
        assert only(render(made), "Deployment")["spec"]["progressDeadlineSeconds"] > made.lifecycle.expected

    def test_the_grace_period_is_longer_than_pre_stop_and_drain(self):
        children = rendered(rollout={"drainTimeout": "200s"})
        words = engine_of(children)["args"]
        assert words[words.index("--shutdown-timeout") + 1] == "200"
        pre_stop = engine_of(children)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod_of(children)["terminationGracePeriodSeconds"] > pre_stop + 200


class TestNodes:
    def test_one_product_is_selected_by_whichever_label_a_node_has(self):
        """The whole of one: feature discovery's label, and each platform's where that one is not."""
        pod = pod_of(rendered(accelerator={"products": ["NVIDIA-L4"]}))
        assert "nodeSelector" not in pod
        first, *others = terms_of(pod)
        assert first == [
            {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4", "NVIDIA-L4-SHARED"]}
        ]
        keys = [each[0]["key"] for each in others]
        assert keys == [
            "cloud.google.com/gke-accelerator",
            "karpenter.k8s.aws/instance-gpu-name",
            "eks.amazonaws.com/instance-gpu-name",
            "node.kubernetes.io/instance-type",
        ]
        assert all({"key": "nvidia.com/gpu.product", "operator": "DoesNotExist"} in each for each in others)

    def test_any_of_several_products_will_do(self):
        first, google, *_ = terms_of(pod_of(rendered(accelerator={"products": ["NVIDIA-L4", "NVIDIA-H200"]})))
        assert first[0]["values"] == ["NVIDIA-L4", "NVIDIA-L4-SHARED", "NVIDIA-H200", "NVIDIA-H200-SHARED"]
        assert set(google[0]["values"]) == {"nvidia-l4", "nvidia-h200-141gb"}

    def test_a_platforms_own_word_or_a_label_of_ones_own_selects_by_that_label_alone(self):
        own = pod_of(rendered(accelerator={"products": ["L4"], "productLabel": "example.com/gpu"}))
        assert own["nodeSelector"] == {"example.com/gpu": "L4"}
        azure = pod_of(rendered(accelerator={"products": ["Standard_NC24ads_A100_v4"]}))
        assert azure["nodeSelector"] == {"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"}
        (google,) = terms_of(pod_of(rendered(accelerator={"products": ["nvidia-l4"]})))
        assert google[0] == {"key": "cloud.google.com/gke-accelerator", "operator": "In", "values": ["nvidia-l4"]}

    def test_the_manifests_own_affinity_holds_beside_the_products(self):
        zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}
        required = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}
        }
        template = {"spec": {"affinity": {"nodeAffinity": required}}}
        alone = terms_of(pod_of(rendered(accelerator={"products": ["NVIDIA-L4"]})))
        both = terms_of(pod_of(rendered(accelerator={"products": ["NVIDIA-L4"]}, podTemplate=template)))
        assert both == [[*term, zone] for term in alone]

    def test_gpus_that_work_together_are_whole_ones(self):
        config = SMALL | {"num_attention_heads": 8, "num_key_value_heads": 4}

        def terms_for(**spec):
            two = service(engine={"tensorParallelSize": 2}, **spec)
            return terms_of(pod_of(render(planned(two, config))))

        terms = terms_for(accelerator={"products": ["NVIDIA-L4"]})
        assert terms[0][0]["values"] == ["NVIDIA-L4"]
        strategy = {"key": "nvidia.com/gpu.sharing-strategy", "operator": "NotIn", "values": ["time-slicing", "mps"]}
        assert all(strategy in term for term in terms)
        (any_gpu,) = terms_for()
        assert strategy in any_gpu

    def test_nodes_that_keep_others_off_their_gpus_take_it(self):
        taint, azure = pod_of(rendered())["tolerations"]
        assert taint == {"key": "nvidia.com/gpu", "operator": "Exists"}, "NoExecute too"
        assert (azure["key"], azure["value"]) == ("sku", "gpu")

    def test_a_slices_node_has_the_taint_of_the_whole_gpu(self):
        """MIG, strategy mixed: the resource is the slice, the taint the GPU's."""
        slices = rendered(accelerator={"products": ["NVIDIA-A100-SXM4-40GB"], "resourceName": "nvidia.com/mig-1g.5gb"})
        keys = [each["key"] for each in pod_of(slices)["tolerations"]]
        assert keys == ["nvidia.com/mig-1g.5gb", "nvidia.com/gpu", "sku"]

    def test_another_resources_name_counts_the_gpus(self):
        children = rendered(accelerator={"resourceName": "nvidia.com/mig-1g.10gb"})
        resources = engine_of(children)["resources"]
        assert resources["limits"] == {"nvidia.com/mig-1g.10gb": "1"}
        assert resources["requests"]["nvidia.com/mig-1g.10gb"] == "1"

    def test_the_gpus_follow_from_both_parallel_sizes(self):
        children = rendered(engine={"tensorParallelSize": 3, "pipelineParallelSize": 2})
        assert engine_of(children)["resources"]["limits"]["nvidia.com/gpu"] == "6"

    def test_a_cpu_replica_requests_no_gpu_and_runs_anywhere(self):
        children = rendered(accelerator=CPU)
        assert not [name for part in engine_of(children)["resources"].values() for name in part if "gpu" in name]
        assert not {"nodeSelector", "affinity", "tolerations"} & pod_of(children).keys()


class TestTheCache:
    def test_a_claim_is_created_as_the_manifest_has_it(self):
        spec = {"size": "7Gi", "storageClassName": "fast", "accessMode": "ReadWriteMany"}
        assert only(rendered(cache=spec), "PersistentVolumeClaim")["spec"] == {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "7Gi"}},
            "storageClassName": "fast",
        }

    def test_a_claim_keeps_the_mode_that_it_was_made_with(self):
        """With a second replica another mode would be chosen, and a claim's can't be changed."""
        children = rendered(cache={}, replicas=2, observed={"children": (claim(mode="ReadWriteOnce"),)})
        assert only(children, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]

    def test_a_claim_that_is_retained_has_no_owner(self):
        body = service(cache={"retain": True})
        body = body.model_copy(update={"metadata": body.metadata.model_copy(update={"uid": "u"})})
        children = render(planned(body, SMALL))
        assert "ownerReferences" not in only(children, "PersistentVolumeClaim")["metadata"]
        assert only(children, "Job")["metadata"]["ownerReferences"]

    def test_an_existing_claim_is_mounted_and_not_made(self):
        children = rendered(cache={"existingClaim": "mine"})
        assert "PersistentVolumeClaim" not in kinds(children)
        assert {"name": "cache", "persistentVolumeClaim": {"claimName": "mine"}} in pod_of(children)["volumes"]

    def test_without_a_cache_the_pod_has_a_folder_of_its_own(self):
        children = rendered()
        assert {"name": "cache", "emptyDir": {}} in pod_of(children)["volumes"]
        assert "Job" not in kinds(children)

    def test_a_model_on_a_claim_is_mounted_and_not_downloaded(self):
        children = rendered(model={"uri": "pvc://models/mistral"}, cache={})
        assert "Job" not in kinds(children)
        words = engine_of(children)["args"]
        assert words[words.index("--model") + 1] == "/models/mistral"
        assert {"name": "model", "mountPath": "/models", "readOnly": True} in engine_of(children)["volumeMounts"]

    def test_pods_of_a_volume_for_one_node_go_to_that_node(self):
        for kind in ("Deployment", "Job"):
            pod = only(rendered(cache={"accessMode": "ReadWriteOnce"}), kind)["spec"]["template"]
            affinity = pod["spec"]["affinity"]["podAffinity"]
            ((weight, term),) = [
                (each["weight"], each["podAffinityTerm"])
                for each in affinity["preferredDuringSchedulingIgnoredDuringExecution"]
            ]
            assert (weight, term["topologyKey"]) == (100, "kubernetes.io/hostname")
            assert term["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            assert "requiredDuringSchedulingIgnoredDuringExecution" not in affinity, "a dead node would tie it down"

    @pytest.mark.parametrize(
        "spec",
        [
            {"cache": {"existingClaim": "theirs"}},
            {"model": {"uri": "pvc://theirs/model"}},
            {"podTemplate": {"spec": {"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "theirs"}}]}}},
        ],
    )
    def test_a_claim_that_is_not_ours_decides_by_its_own_mode(self, spec):
        """One node at a time: replicas go there, and with GPUs a change is made in place; many nodes: neither."""
        narrow, wide = claim("theirs"), claim("theirs", mode="ReadWriteMany")
        children = rendered(**spec, observed={"claims": (narrow,), "free_gpus": 4})
        assert "podAffinity" in pod_of(children)["affinity"]
        assert only(children, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
        children = rendered(**spec, observed={"claims": (wide,), "free_gpus": 4})
        assert "affinity" not in pod_of(children)
        assert only(children, "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 1


class TestThePreload:
    spec = {  # noqa: RUF012
        "model": {"uri": "hf://org/name", "revision": "v1", "credentials": {"secretName": "hf"}},
        "cache": {},
        "accelerator": {"products": ["NVIDIA-L4"]},
        "auth": {"apiKeys": {"secretName": "keys"}},
    }

    def job(self, **changes):
        return only(rendered(**(self.spec | changes)), "Job")

    def test_it_runs_where_the_replicas_can_and_requests_no_gpu(self):
        pod = self.job()["spec"]["template"]["spec"]
        assert terms_of(pod) == terms_of(pod_of(rendered(**self.spec)))
        assert pod["tolerations"]
        assert not [name for name in pod["containers"][0]["resources"]["requests"] if "gpu" in name]

    def test_it_prefers_nodes_with_gpus_where_any_will_do(self):
        affinity = self.job(accelerator={})["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        assert set(affinity) == {"preferredDuringSchedulingIgnoredDuringExecution"}

    def test_it_has_the_hubs_token_and_not_the_api_key(self):
        names = [each["name"] for each in self.job()["spec"]["template"]["spec"]["containers"][0]["env"]]
        assert "HF_TOKEN" in names
        assert not [name for name in names if name.startswith("OCTAVO_API_KEY")]
        assert not [v for v in self.job()["spec"]["template"]["spec"]["volumes"] if "secret" in v]

    def test_the_documented_way_through_a_proxy_is_the_downloads_and_the_replicas(self):
        """docs/installing.md: a proxy, and the authorities of a company."""
        text = (ROOT / "docs/installing.md").read_text()
        (block,) = [each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "company-ca" in each]
        children = rendered(**(self.spec | yaml.safe_load(block)["spec"]))
        for kind in ("Deployment", "Job"):
            pod = only(children, kind)["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            env = {each["name"]: each.get("value") for each in container["env"]}
            assert env["HTTPS_PROXY"] == "http://proxy.example.com:3128"
            (mount,) = [each for each in container["volumeMounts"] if each["name"] == "company-ca"]
            assert env["SSL_CERT_FILE"].startswith(f"{mount['mountPath']}/")
            assert {"name": "company-ca", "configMap": {"name": "company-ca"}} in pod["volumes"]

    def test_its_pods_are_not_the_services(self):
        children = rendered(**self.spec)
        labels = self.job()["spec"]["template"]["metadata"]["labels"]
        assert not only(children, "Service")["spec"]["selector"].items() <= labels.items()
        assert not only(children, "Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()

    def test_another_model_is_another_download(self):
        marks = [
            self.job(model={"uri": "hf://org/name", "revision": revision})["metadata"]["annotations"][DOWNLOAD]
            for revision in ("v1", "v2")
        ]
        assert marks[0] != marks[1]

    def test_another_image_is_the_same_download_by_another_template(self):
        before, after = self.job(), self.job(engine={"image": {"tag": "2"}})
        assert before["metadata"]["annotations"][DOWNLOAD] == after["metadata"]["annotations"][DOWNLOAD]
        assert before["metadata"]["annotations"][TEMPLATE] != after["metadata"]["annotations"][TEMPLATE]

    def test_another_number_of_replicas_leaves_it_alone(self):
        one = self.job(cache={"accessMode": "ReadWriteMany"})
        assert one == self.job(cache={"accessMode": "ReadWriteMany"}, replicas=4)

    def test_another_runtime_is_fed_by_octavos_own_image(self):
        pod = self.job(engine={"runtime": "vllm"})["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"].startswith("octavo/engine:")


class TestWhatIsOptional:
    @pytest.mark.parametrize(
        ("wanted", "known", "made"),
        [
            ("Auto", True, True),
            ("Auto", False, False),
            ("Auto", None, False),
            ("Enabled", False, True),
            ("Disabled", True, False),
        ],
    )
    def test_a_service_monitor_is_created_where_it_is_served_or_requested(self, wanted, known, made):
        children = rendered(monitoring={"serviceMonitor": wanted}, observed={"service_monitors": known})
        assert ("ServiceMonitor" in kinds(children)) is made

    def test_a_network_policy_lets_in_the_namespace_and_the_operator(self):
        spec = only(rendered(networkPolicy={"enabled": True}), "NetworkPolicy")["spec"]
        (rule,) = spec["ingress"]
        assert rule["from"][0] == {"podSelector": {}}
        assert rule["from"][1]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "octavo-system"}
        assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]

    def test_a_network_policy_lets_in_whom_the_manifest_names(self):
        peer = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
        spec = only(rendered(networkPolicy={"enabled": True, "allowFrom": [peer]}), "NetworkPolicy")["spec"]
        assert spec["ingress"][0]["from"][0] == peer

    def test_one_replica_needs_no_budget(self):
        assert "PodDisruptionBudget" not in kinds(rendered())
        budget = only(rendered(replicas=2), "PodDisruptionBudget")["spec"]
        assert budget["maxUnavailable"] == 1


class TestTheTemplateOfTheManifest:
    def test_it_is_merged_last(self):
        template = {
            "metadata": {"annotations": {"a": "b"}},
            "spec": {
                "priorityClassName": "high",
                "containers": [{"name": "engine", "resources": {"limits": {"memory": "9Gi"}}}, {"name": "side"}],
            },
        }
        children = rendered(podTemplate=template, cache={})
        assert engine_of(children)["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "9Gi"}
        assert pod_of(children)["priorityClassName"] == "high"
        assert [each["name"] for each in pod_of(children)["containers"]] == ["engine", "side"]
        job = only(children, "Job")["spec"]["template"]["spec"]
        assert job["priorityClassName"] == "high", "the download runs as the replicas do"
        assert [each["name"] for each in job["containers"]] == ["preload"]

    def test_it_can_not_lose_the_pods(self):
        """Without these labels neither Deployment nor Service would find them."""
        labels = {"octavo.dev/service": "another", "mine": "1"}
        children = rendered(podTemplate={"metadata": {"labels": labels}})
        found = only(children, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert found["octavo.dev/service"] == "svc"
        assert found["mine"] == "1"

    @pytest.mark.parametrize(
        "template", [{"metadata": None}, {"spec": None}, {"metadata": []}, {"spec": {"containers": 1}}]
    )
    def test_a_nonsensical_one_is_left_to_the_api_server(self, template):
        assert rendered(podTemplate=template)


def test_the_selector_for_the_scale_subresource_is_the_deployments():
    wanted = only(rendered(), "Deployment")["spec"]["selector"]["matchLabels"]
    assert dict(part.split("=") for part in selector_text("svc").split(",")) == wanted
