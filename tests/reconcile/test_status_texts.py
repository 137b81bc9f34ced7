"""The status's texts on pods, downloads and volumes, without an API server."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from octavo_testing.planner_cases import CPU, claim, service

from octavo_operator.api.conditions import REASON, as_reason
from octavo_operator.api.manifest import parse, read
from octavo_operator.api.observed import Download, Observed
from octavo_operator.children import render
from octavo_operator.errors import ManifestError
from octavo_operator.planner import plan
from octavo_operator.reconcile import downloads, summary
from octavo_operator.reconcile.applying import Outcome
from octavo_operator.reconcile.cache_state import memory_of
from octavo_operator.settings import Settings

VOLUME = [{"name": "cache", "persistentVolumeClaim": {"claimName": "svc-cache"}}]


def deployment(replicas=1, ready=1):
    counts = {"replicas": replicas, "readyReplicas": ready, "updatedReplicas": replicas, "observedGeneration": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "svc", "generation": 1},
        "spec": {"replicas": replicas},
        "status": counts,
    }


def pod(name, component="engine", node="n1", phase="Running", ready=False, owner="", **status):
    labels = {"app.kubernetes.io/component": component, "octavo.dev/service": "svc"}
    metadata = {"name": name, "uid": name, "labels": labels, "ownerReferences": [{"uid": owner}]}
    conditions = [{"type": "Ready", "status": str(ready)}, {"type": "PodScheduled", "status": "True"}]
    spec = {"nodeName": node, "volumes": VOLUME}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase, "conditions": conditions, **status}}


RUNS = {"containerStatuses": [{"name": "engine", "state": {"running": {}}}]}


def summarized(observed, outcome=None, unknown=(), **spec):
    made = service(accelerator=CPU, **spec)
    return summary.summarize(made, plan(made, observed, Settings()), observed, outcome or Outcome(), unknown=unknown)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("OutOfnvidia.com/gpu", "OutOfnvidiaComGpu"),
        ("Evicted", "Evicted"),
        ("1-bad reason.", "BadReason"),
        ("", "Unknown"),
        ("%%", "Unknown"),
        ("Ünknown", "nknown"),
        ("x" * 2000, "x" * 128),
        ("A:", "A"),
    ],
)
def test_any_word_becomes_a_reason_that_the_api_server_takes(word, reason):
    assert as_reason(word) == reason
    assert re.fullmatch(REASON, as_reason(word))


def test_conditions_have_no_other_reasons():
    """The one place that all conditions, and the Events that follow from them, go through."""
    dead = pod("old", phase="Failed", reason="OutOfnvidia.com/gpu", message="rejected")
    said = summarized(Observed(children=(deployment(ready=0),), pods=(dead,)))
    found = summary.conditions_of(said.conditions, 1, {}, "2026-01-01T00:00:00Z")
    assert {each["type"]: each["reason"] for each in found}["Ready"] == "OutOfnvidiaComGpu"
    assert all(re.fullmatch(REASON, each["reason"]) for each in found)


def test_a_failed_pod_explains_something_only_while_it_is_the_newest():
    dead = pod("old", phase="Failed", reason="Evicted", message="low on memory")
    loading, serving = pod("new", **RUNS), pod("new", ready=True, **RUNS)
    assert summarized(Observed(children=(deployment(ready=0),), pods=(dead, loading))).conditions["Ready"][1] == (
        "LoadingModel"
    )
    said = summarized(Observed(children=(deployment(),), pods=(dead, serving)))
    assert said.conditions["Ready"][:2] == ("True", "Serving")
    assert said.conditions["Progressing"][0] == "False"


def test_a_volume_that_another_pod_has_on_another_node_is_reported():
    """With the pod, the node, and what to do where that node is dead."""
    holder, waits = pod("old", node="n1", ready=True, **RUNS), pod("new", node="n2", phase="Pending")
    there = Observed(children=(deployment(2, 1), claim()), pods=(holder, waits))
    said = summarized(there, cache={"preload": False}, replicas=2)
    reason, text = said.conditions["Ready"][1:]
    assert reason == "MultiAttach"
    assert "the pod old has it on n1: the replica on n2 starts once that pod has ended" in text
    holder["metadata"]["deletionTimestamp"] = "now"
    text = summarized(there, cache={"preload": False}, replicas=2).conditions["Ready"][2]
    assert "kubectl taint node n1 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in text
    waits["spec"]["nodeName"] = "n1"
    assert summarized(there, cache={"preload": False}, replicas=2).conditions["Ready"][1] != "MultiAttach"


def job(made, *, finished="", **metadata):
    (body,) = [each for each in render(made) if each["kind"] == "Job"]
    conditions = [{"type": finished, "status": "True"}] if finished else []
    body["metadata"] |= {"uid": "job", **metadata}
    return body | {"status": {"conditions": conditions, "completionTime": "2026-01-02T00:00:00Z"}}


def planned(**spec):
    return plan(service(accelerator=CPU, cache={}, **spec), Observed(), Settings())


def test_a_download_is_done_by_its_own_job_onto_the_claim_that_is_there():
    """A Job for another model, or one that is older than the claim, does not count."""
    made, others = planned(), planned(model={"uri": "hf://org/other"})
    done = job(made, finished="Complete")
    assert downloads.done(made, Observed(children=(claim(), done))) is not None
    assert downloads.waits(made, Observed(children=(claim(), job(made))))
    assert downloads.waits(made, Observed(children=(claim(), job(others, finished="Complete"))))
    younger = claim()
    younger["metadata"]["creationTimestamp"] = "2026-01-03T00:00:00Z"
    assert downloads.waits(made, Observed(children=(younger, done)))


def test_a_download_is_remembered_with_its_claim():
    """The status remembers it, which a Job's removal leaves alone; a claim that was made again under the name is empty."""
    made = planned()
    fetched = downloads.done(made, Observed(children=(claim(), job(made, finished="Complete"))))
    written = memory_of(fetched).model_dump(by_alias=True, exclude_none=True)
    memory = downloads.remembered({"cache": written})
    assert memory == fetched
    assert downloads.done(made, Observed(children=(claim(),), downloaded=memory)) == fetched
    assert downloads.waits(made, Observed(children=(claim(uid="another"),), downloaded=memory))
    assert downloads.waits(made, Observed(downloaded=memory)), "the claim is gone"
    assert downloads.waits(planned(model={"uri": "hf://org/other"}), Observed(children=(claim(),), downloaded=memory))
    nameless = replace(fetched, claim_uid="")
    assert memory_of(nameless) is None, "without a UID it would fit any claim"
    assert downloads.remembered(None) is None


def test_what_is_remembered_stays_while_another_model_is_downloaded():
    """The other model is there still: to go back to it needs no download."""
    memory = Download("digest", "svc-cache", "c", "abc", 7)
    said = summarized(Observed(children=(claim(),), downloaded=memory), cache={})
    assert said.status.model_dump(by_alias=True, exclude_none=True)["cache"] == {
        "claim": "svc-cache",
        "claimUID": "c",
        "download": "digest",
        "commit": "abc",
        "bytes": 7,
    }


def test_a_download_that_has_no_pod_is_reported_in_its_jobs_words():
    observed = Observed(
        children=(claim(), deployment(0, 0), job(planned())),
        job_message='error looking up service account x/y: serviceaccount "y" not found',
    )
    state = summarized(observed, cache={}).conditions["ModelCached"]
    assert state[0] == "False"
    assert state[1] != "DownloadingModel"
    assert 'serviceaccount "y" not found' in state[2]


def test_a_download_that_a_queue_holds_back_is_reported():
    """Kueue suspends Jobs until it admits them: for hours, perhaps."""
    made = job(planned())
    observed = Observed(children=(claim(), deployment(0, 0), made | {"spec": made["spec"] | {"suspend": True}}))
    assert summarized(observed, cache={}).conditions["ModelCached"][:2] == ("False", "DownloadSuspended")
    resumed = Observed(children=(claim(), deployment(0, 0), made))
    assert summarized(resumed, cache={}).conditions["ModelCached"][1] == "DownloadingModel"


def test_a_pod_that_outlived_its_job_is_named():
    """`kubectl delete job --cascade=orphan`, and any client that names no policy: its pod may still write."""
    observed = Observed(children=(claim(), deployment(0, 0)), pods=(pod("svc-preload-x", "preload", **RUNS),))
    state = summarized(observed, cache={}).conditions["ModelCached"]
    assert state[:2] == ("False", "DownloadingModel")
    assert "kubectl delete pod -n default svc-preload-x" in state[2]
    placeless = pod("svc-preload-x", "preload", node=None, phase="Pending")
    placeless["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]
    observed = Observed(children=(claim(), deployment(0, 0)), pods=(placeless,))
    assert summarized(observed, cache={}).conditions["ModelCached"][1] == "Unschedulable"


def test_the_last_words_of_a_download_lose_their_credentials():
    failed = job(planned(), finished="Failed")
    words = "GET https://user:pa55word@hub.example/model: 404"
    ended = {"name": "preload", "state": {"terminated": {"exitCode": 2, "message": words}}}
    of_job = pod("svc-preload-x", "preload", phase="Failed", owner="job", containerStatuses=[ended])
    observed = Observed(children=(claim(), deployment(0, 0), failed), pods=(of_job,))
    state = summarized(observed, cache={}).conditions["ModelCached"]
    assert state[1] == "DownloadFailed"
    assert "hub.example/model: 404" in state[2]
    assert "pa55word" not in state[2]


def body(**spec):
    metadata = {"name": "svc", "namespace": "a", "uid": "u"}
    spec.setdefault("model", {"uri": "hf://org/name"})
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMService", "metadata": metadata, "spec": spec}


def test_what_the_api_server_sends_may_be_newer():
    """Fields of any depth, and of ObjectMeta; the object itself is not touched. A file's slip is refused as ever."""
    sent = body(turbo=True, engine={"maxModelLen": 7, "turbo": {"a": 1}, "env": [{"name": "A", "value": "1", "x": 2}]})
    sent["metadata"]["shiny"] = {"new": 1}
    made, unknown = read(sent)
    assert unknown == ("spec.engine.env[0].x", "spec.engine.turbo", "spec.turbo")
    assert made.spec.engine.max_model_len == 7
    assert sent["spec"]["engine"]["turbo"] == {"a": 1}
    with pytest.raises(ManifestError):
        parse(sent)


def test_other_slips_are_refused_wherever_they_come_from():
    with pytest.raises(ManifestError) as refused:
        read(body(turbo=True, engine={"maxModelLen": "many"}))
    assert [problem.field for problem in refused.value.problems] == ["spec.engine.maxModelLen"]


def test_a_spec_that_can_not_be_read_ends_no_readiness():
    """While its autoscaler adds replicas beyond the minimum, as in any other case."""
    autoscaler = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "svc"}, "spec": {"minReplicas": 1}}

    def ready(*children):
        said = summary.invalid(body(), Observed(children=children), ManifestError("LLMService", ()))
        return said.conditions["Ready"][0]

    assert ready(deployment(2, 2)) == "True"
    assert ready(deployment(2, 1)) == "False"
    assert ready(deployment(2, 1), autoscaler) == "True"
    assert ready(deployment(2, 0), autoscaler) == "False"


def test_unknown_fields_and_kept_claims_are_warnings():
    """Each with its remedy."""
    kept = Outcome(kept=["svc-cache"])
    said = summarized(Observed(children=(deployment(),)), kept, ["spec.turbo"])
    *_, claims, fields = said.status.plan.warnings
    assert claims.endswith("kubectl delete pvc -n default svc-cache deletes it")
    assert fields == "spec.turbo: not known to this version of the operator and without effect; upgrade the operator"


def test_replicas_that_are_evicted_for_want_of_disk_again_and_again_are_stalled():
    """Each new one downloads the model onto the same disk, and is evicted for it."""
    evicted = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 1Gi.",
    }
    loads = pod("c", **RUNS)

    def stalled(*pods, ready=0):
        found = summarized(Observed(children=(deployment(ready=ready),), pods=pods))
        return found.conditions["Stalled"][:2], found.conditions["Stalled"][2]

    assert stalled(pod("a", **evicted), loads)[0] == ("False", "Progressing"), "once may be a neighbour's fault"
    state, message = stalled(pod("a", **evicted), pod("b", **evicted), loads)
    assert state == ("True", "DiskFull")
    assert "cache: {}" in message
    assert "resources.requests.ephemeral-storage" in message
    assert stalled(pod("a", **evicted), pod("b", **evicted), pod("c", ready=True), ready=1)[0][0] == "False"
    other = evicted | {"message": "The node was low on resource: memory."}
    assert stalled(pod("a", **other), pod("b", **other), loads)[0][0] == "False"


@pytest.mark.parametrize(
    "words",
    [
        "NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes",
        "Volume capabilities MULTI_NODE_MULTI_WRITER not supported. Only AccessModes[ReadWriteOnce] supported.",
        "desc = VolumeCapabilities is invalid: specified multi writer with mount access type",
        "rpc error: code = InvalidArgument desc = Volume capability not supported",
        "rpc error: code = InvalidArgument desc = mountVolume is not supported for access mode: MULTI_NODE_MULTI_WRITER",
    ],
)
def test_a_class_that_can_not_share_a_volume_is_stalled_with_the_field(words):
    """Provisioners word it so: tried again for ever, it never succeeds."""
    pending = claim(phase="Pending", mode="ReadWriteMany")
    observed = Observed(children=(pending, deployment(2, 0)), claim_waits=True, claim_message=words)
    stalled_by = summarized(observed, cache={}, replicas=2).conditions["Stalled"]
    assert stalled_by[:2] == ("True", "AccessModeNotSupported")
    assert "cache.accessMode: ReadWriteOnce" in stalled_by[2]


def test_other_troubles_of_a_provisioner_are_waited_for():
    words = "failed to provision volume: rpc error: code = ResourceExhausted desc = quota exceeded"
    pending = claim(phase="Pending")
    observed = Observed(children=(pending, deployment(1, 0)), claim_waits=True, claim_message=words)
    assert summarized(observed, cache={}).conditions["Progressing"][1] == "ClaimPending"
