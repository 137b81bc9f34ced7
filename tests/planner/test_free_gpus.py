"""The capacity that nodes have for a further replica, as far as the planner counts it."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest

from octavo_operator.api.observed import Gpu, Nodes
from octavo_operator.planner.node_labels import selection
from octavo_operator.planner.plan import Hardware
from octavo_operator.reconcile import free_gpus
from octavo_operator.reconcile.capacity import ClusterCapacity, pod_facts, requests_of

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
GPUS = Hardware("nvidia", 1, GPU, ())
NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
SINCE = "2026-01-01T00:00:00Z"


def node(name="a", gpus=2, *, ready="True", labels=None, **spec):
    allocatable = {GPU: str(gpus), "cpu": "4", "memory": "8Gi", "pods": "110"}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": status}


def pod(
    uid, where=None, *, gpus="1", cpu="1", phase="Running", ending=False, revision="new", since=SINCE, words="", **spec
):
    metadata = {"uid": uid, "labels": {free_gpus.REVISION: revision}} | ({"deletionTimestamp": "now"} if ending else {})
    status = "True" if where else "False"
    conditions = [{"type": "PodScheduled", "status": status, "lastTransitionTime": since, "message": words}]
    containers = [{"resources": {"requests": {"cpu": cpu}, "limits": {GPU: gpus, "cpu": "8"}}}]
    return {
        "metadata": metadata,
        "spec": {"containers": containers, **({"nodeName": where} if where else {}), **spec},
        "status": {"phase": phase, "conditions": conditions},
    }


@pytest.mark.parametrize(
    ("nodes", "pods", "template", "free"),
    [
        ([node()], [], {}, 2),
        ([node()], [pod(1, "a")], {}, 1),
        ([node()], [pod(1, "a", phase="Succeeded")], {}, 2),
        ([node("a"), node("b", 1)], [pod(1, "a"), pod(2, "a")], {}, 1),
        ([node(ready="Unknown")], [], {}, 0),
        ([node(unschedulable=True)], [], {}, 0),
        ([node(taints=[{"key": GPU, "effect": "NoSchedule"}])], [], {}, 2),
        ([node(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])], [], {}, 0),
        ([node(taints=[{"key": "team", "value": "a", "effect": "PreferNoSchedule"}])], [], {}, 2),
        (
            [node(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])],
            [],
            {"spec": {"tolerations": [{"key": "team", "value": "a", "effect": "NoSchedule"}]}},
            2,
        ),
        ([node(labels={"zone": "x"})], [], {"spec": {"nodeSelector": {"zone": "y"}}}, 0),
        ([node(labels={"zone": "x"})], [], {"spec": {"nodeSelector": {"zone": "x"}}}, 2),
    ],
)
def test_gpus_are_counted_where_a_replica_could_run(nodes, pods, template, free):
    assert free_gpus.nodes_for(GPUS, template, ClusterCapacity(nodes, pods)).free == free


@pytest.mark.parametrize(
    ("replicas", "updated", "engines", "followed", "counted"),
    [
        (2, 1, [pod("old", "a"), pod("new", "a")], ["old", "new"], True),
        (2, 1, [pod("old", "a"), pod("new")], ["old", "new"], True),  # one that has no node yet waits for its GPU
        (2, 1, [pod("old", "a"), pod("new", "a")], ["old"], False),  # its watch event is still to come
        (2, 1, [pod("old", "a")], ["old"], False),  # pods were listed before the Deployment was
        (1, 0, [pod("old", "a")], ["old"], False),  # the change has not begun
        (1, 1, [pod("old", "a", ending=True), pod("new", "a")], ["new"], True),
        (1, 1, [pod("old", phase="Failed"), pod("new", "a")], ["new"], True),
    ],
)
def test_a_promise_ends_when_the_pod_that_it_was_for_is_counted(replicas, updated, engines, followed, counted):
    """Sooner, and a service that is planned in between would be promised the same GPU."""
    capacity = ClusterCapacity([node()], [each for each in engines if each["metadata"]["uid"] in followed])
    status = {"replicas": replicas, "updatedReplicas": updated, "observedGeneration": 2}
    deployment = {"metadata": {"generation": 2}, "status": status}
    assert free_gpus.are_counted(deployment, engines, capacity) is counted
    deployment["metadata"]["generation"] = 3
    assert not free_gpus.are_counted(deployment, engines, capacity), "the status is of the former template"


def test_only_the_products_that_were_named_count_and_all_are_reported():
    """A person can then see which products there are."""
    wanted = Hardware("nvidia", 1, GPU, ("L4",), selection(("L4",), None, GPU, together=False))
    nodes = [node("a", 1, labels={PRODUCT: "L4"}), node("b", 8, labels={PRODUCT: "T4"})]
    assert free_gpus.nodes_for(wanted, {}, ClusterCapacity(nodes)) == Nodes(
        free=1, largest=1, products=("L4", "T4"), gpus=(Gpu("L4", None, None),)
    )


def test_gpus_of_own_pods_that_are_ending_are_counted_as_free():
    pods = [mine := pod(1, "a", ending=True), pod(2, "a", ending=True)]
    assert free_gpus.nodes_for(GPUS, {}, ClusterCapacity([node()], pods), free_gpus.ending([mine])).free == 1


@pytest.mark.parametrize(
    ("status", "replicas", "expected"),
    [
        ({"replicas": 2, "updatedReplicas": 2}, 2, False),
        ({"replicas": 3, "updatedReplicas": 2}, 2, True),
        ({"replicas": 2, "updatedReplicas": 1}, 2, True),
        ({"replicas": 2, "updatedReplicas": 2, "observedGeneration": 3}, 2, True),
        ({}, 0, False),
    ],
)
def test_a_change_is_under_way_while_replicas_differ_from_their_template(status, replicas, expected):
    deployment = {"metadata": {"generation": 4}, "spec": {"replicas": replicas}}
    assert free_gpus.is_under_way(deployment | {"status": {"observedGeneration": 4} | status}) == expected


def change(own, nodes, others=(), surge=1, now=NOW, exclusive=()):
    deployment = {"spec": {"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": surge}}}, "status": {}}
    capacity = ClusterCapacity(nodes, [*own, *others]) if nodes else None
    return free_gpus.change_of(deployment, own, capacity, now, exclusive)


def test_a_replica_that_seeks_a_node_is_reported_with_its_time_and_whether_an_old_one_could_make_way():
    old = pod(1, "a", revision="old")
    found = change([old, pod(2)], [node(gpus=1)])
    assert (found.surges, found.unplaced_s, found.old_makes_way) == (True, 60.0, True)
    other = pod(9, "a")
    assert change([pod(2)], [node(gpus=1)], [other]).old_makes_way is False, "another's makes way for nobody"
    assert change([pod(1, "a"), pod(2)], [node(gpus=1)]).old_makes_way is False, "nor one that follows the change"
    assert change([old, pod(2)], []).old_makes_way is None, "nodes may not be read"


def test_cpu_and_memory_count_as_gpus_do():
    old = pod(1, "a", cpu="3", revision="old")
    assert change([old, pod(2, cpu="3")], [node(gpus=8)]).old_makes_way
    assert change([old, pod(2, cpu="5")], [node(gpus=8)]).old_makes_way is False
    sidecar = {"restartPolicy": "Always", "resources": {"requests": {"cpu": "2"}}}
    assert change([old, pod(2, cpu="3", initContainers=[sidecar])], [node(gpus=8)]).old_makes_way is False
    before = {"resources": {"requests": {"cpu": "4"}}}
    assert change([old, pod(2, cpu="3", initContainers=[before])], [node(gpus=8)]).old_makes_way


def test_a_replica_for_which_there_is_room_by_now_is_not_homeless():
    """The scheduler is about to look again."""
    assert change([pod(1, "a", revision="old"), pod(2)], [node(gpus=2)]).unplaced_s is None


def test_no_replica_is_unplaced_while_an_own_pod_is_ending():
    assert change([pod(1, "a", ending=True), pod(2)], [node(gpus=1)]).unplaced_s is None


def test_a_node_of_another_product_is_no_room():
    term = {"matchExpressions": [{"key": PRODUCT, "operator": "In", "values": ["L4"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    own = [pod(1, "a", revision="old"), pod(2, affinity=affinity)]
    assert change(own, [node(gpus=1, labels={PRODUCT: "T4"})]).old_makes_way is False
    assert change(own, [node(gpus=1, labels={PRODUCT: "L4"})]).old_makes_way


def test_a_gpu_that_a_waiting_pod_is_about_to_get_is_not_free():
    """Several services that are edited at once surge as far as there are GPUs."""

    def free(nodes, *waiting):
        return free_gpus.nodes_for(GPUS, {}, ClusterCapacity(nodes, waiting)).free

    assert free([node()], pod(7)) == 1
    assert free([node()], pod(7), pod(8)) == 0
    assert free([node()], pod(7, gpus="4")) == 2, "it has room on no node, and takes none"
    assert free([node()], pod(7, schedulingGates=[{"name": "kueue"}])) == 2
    assert free([node("a"), node("b", 1)], pod(7, gpus="2")) == 1


def test_a_queue_of_pods_that_are_alike_costs_no_more_than_one_of_them(monkeypatch):
    """Thousands may wait for a full cluster, and each look counts what they are about to take."""
    looks, free = [], ClusterCapacity.free
    monkeypatch.setattr(ClusterCapacity, "free", lambda self, *args: looks.append(args) or free(self, *args))
    nodes = [node(f"n{index}", 1) for index in range(50)]
    full = [pod(index, f"n{index}") for index in range(49)]
    waiting = [pod(100 + index) for index in range(500)]
    assert free_gpus.nodes_for(GPUS, {}, ClusterCapacity(nodes, [*full, *waiting])).free == 0
    assert len(looks) < 3 * len(nodes)
    looks.clear()
    own = [pod("own", "n49")]
    roomy = ClusterCapacity([*nodes, node("roomy", 2)], [*full, *own, *waiting])
    assert free_gpus.contender(requests_of(own[0]), own, own, roomy) is None
    assert len(looks) < 10 * len(nodes)


def test_a_pod_that_waits_for_other_nodes_takes_no_gpu():
    """Another team's pod that no node here will ever take does not cost a service its surge."""
    team = [{"key": "team", "value": "a", "effect": "NoSchedule"}]
    terms = [{"matchExpressions": [{"key": PRODUCT, "operator": "In", "values": ["NVIDIA-H100"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}

    def free(waiting, **spec):
        template = {"spec": {"tolerations": team}}
        return free_gpus.nodes_for(GPUS, template, ClusterCapacity([node(**spec)], [waiting])).free

    assert free(pod(7, nodeSelector={PRODUCT: "NVIDIA-H100"}), labels={PRODUCT: "NVIDIA-L4"}) == 2
    assert free(pod(7, affinity={"nodeAffinity": required}), labels={PRODUCT: "NVIDIA-L4"}) == 2
    assert free(pod(7, affinity={"nodeAffinity": required}), labels={PRODUCT: "NVIDIA-H100"}) == 1
    assert free(pod(7), taints=team) == 2
    assert free(pod(7, tolerations=team), taints=team) == 1


def test_nodes_for_a_download_are_those_with_enough_gpus_be_they_free_or_not():
    nodes = [
        node(name, count, labels={"kubernetes.io/hostname": name}) for name, count in (("a", 1), ("b", 2), ("c", 0))
    ]
    two = Hardware("nvidia", 2, GPU, ())
    assert free_gpus.nodes_for(two, {}, ClusterCapacity(nodes, [pod(1, "b"), pod(2, "b")])).names == ("b",)


def test_a_pod_behind_a_scheduling_gate_is_not_homeless():
    """A controller holds it back by a gate: old replicas that make way would not help."""
    gated = pod(2, schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])
    assert change([pod(1, "a", revision="old"), gated], [node(gpus=1)]).unplaced_s is None


UNKNOWN_HERE = (
    "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. preemption: 0/1 nodes are available"
)
HOPELESS = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: Insufficient x"
BOTH = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match pod anti-affinity rules."


@pytest.mark.parametrize(
    ("words", "minutes", "expected"),
    [
        (UNKNOWN_HERE, 0.9, (None, None)),
        (UNKNOWN_HERE, 1.1, (66.0, True)),  # of which nothing is counted here
        (HOPELESS, 1.1, (66.0, False)),  # reported, and nothing ends for it
        (BOTH, 9.0, (None, None)),  # the GPU may just have come free: the scheduler is about to look again
    ],
)
def test_after_the_patience_the_schedulers_own_words_count(words, minutes, expected):
    """The reason may be affinity, spread, ports or volumes: a surge that waits for those would never end, and
    unreported.
    """
    own = [pod(1, "a", revision="old"), pod(2, words=words, since="2026-01-01T00:00:00Z")]
    found = change(own, [node(gpus=2)], now=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))
    assert (found.unplaced_s, found.old_makes_way) == expected


def test_an_old_replica_makes_no_way_for_one_that_no_node_would_take_anyway():
    """There would be a GPU; but a selector that no node has is a wrong edit, and ends nothing that serves."""
    own = [pod(1, "a", revision="old"), pod(2, words=HOPELESS)]
    assert change(own, [node(gpus=1)]).old_makes_way is False


VOLUME = [{"name": "cache", "persistentVolumeClaim": {"claimName": "c"}}]


def started(made):
    made["status"]["containerStatuses"] = [{"state": {"running": {}}}]
    return made


def test_a_surge_that_waits_for_a_volume_on_another_node_is_homeless():
    """Multi-Attach: it has a node, and yet the old one has to end first."""
    old, new = started(pod(1, "a", revision="old", volumes=VOLUME)), pod(2, "b", volumes=VOLUME)
    found = change([old, new], [], exclusive={"c"})
    assert (found.unplaced_s, found.old_makes_way) == (60.0, True)
    assert change([old, new], []).unplaced_s is None, "a claim that many nodes can have"
    assert change([old, pod(2, "a", volumes=VOLUME)], [], exclusive={"c"}).unplaced_s is None, "the same node"
    ending = started(pod(1, "a", revision="old", ending=True, volumes=VOLUME))
    assert change([ending, new], [], exclusive={"c"}).unplaced_s is None, "it makes way already"
    same = started(pod(1, "a", volumes=VOLUME))
    assert change([same, new], [], exclusive={"c"}).old_makes_way is False, "both follow the change"


def test_a_replica_that_loads_stands_for_the_one_that_made_way():
    """While it loads, no further replica is unready on its account."""
    own = [pod(1, "a", revision="old"), pod(2, "a"), pod(3)]
    assert change(own, [node(gpus=2)]).unready == 1
    crashed = started(pod(2, "a"))
    assert change([own[0], crashed, own[2]], [node(gpus=2)]).unready == 1, "a wrong edit ends no second one either"


def test_sums_follow_pods_that_are_added_bound_changed_and_forgotten():
    """Kept by difference, never counted again: after any history they equal those of a fresh count."""
    capacity = ClusterCapacity([node("a", 4), node("b", 4)])
    history = [pod("1"), pod("1", "a"), pod("2", "a", gpus="2"), pod("2", "a", gpus="1"), pod("3", "b"), pod("4")]
    for each in history:
        capacity.keep_pod(pod_facts(each))
    capacity.forget_pod("3")
    capacity.forget_pod("never seen")
    assert {n.name: capacity.free(n, GPU) // 1000 for n in capacity.nodes} == {"a": 2, "b": 4}
    assert [each.uid for each in capacity.waiting] == ["4"]
    assert pod_facts(pod("1", "a", phase="Failed")) is None, "what has ended holds nothing"


def test_an_init_container_runs_with_the_sidecars_that_started_before_it():
    """The scheduler counts them so, by the API's documentation of sidecar containers."""

    def container(cpu, **more):
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [container("1")],
        "initContainers": [container("2", restartPolicy="Always"), container("3"), container("1")],
        "overhead": {"cpu": "250m"},
    }
    assert requests_of({"metadata": {}, "spec": spec})["cpu"] == 5250


def test_a_pods_own_requests_stand_in_place_of_its_containers():
    """Pod-level resources, for processor and memory alone; the overhead is added to them as well."""
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1", GPU: "2"}}}, {"resources": {"requests": {"cpu": "1"}}}],
        "resources": {"requests": {"cpu": "8"}},
        "overhead": {"cpu": "250m"},
    }
    found = requests_of({"metadata": {}, "spec": spec})
    assert (found["cpu"], found[GPU]) == (8250, 2000)


def test_ten_thousand_pods_on_five_hundred_nodes_take_a_few_mebibytes():
    """The cache holds what planning reads, and pods of one kind share their requests."""
    labels = {f"feature.example/{number}": "true" for number in range(30)}

    def crowd():
        return (pod(f"00000000-0000-0000-0000-{number:012}", f"node-{number % 500}") for number in range(10_000))

    tracemalloc.start()
    try:
        capacity = ClusterCapacity((node(f"node-{number}", 8, labels=labels) for number in range(500)), crowd())
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(capacity.nodes) == 500
    assert held < 6 << 20


def test_a_former_replica_that_does_not_answer_is_worth_no_patience():
    """A first revision that crash-loops holds the node's last GPU: the corrected one need not wait for it."""
    serving = pod(1, "a", revision="old")
    serving["status"]["conditions"] += [{"type": "Ready", "status": "True"}]
    assert change([serving, pod(2)], [node(gpus=1)]).old_serves
    assert not change([started(pod(1, "a", revision="old")), pod(2)], [node(gpus=1)]).old_serves
    other = pod(3, "a")
    other["status"]["conditions"] += [{"type": "Ready", "status": "True"}]
    two = change([started(pod(1, "a", revision="old")), pod(2), other], [node()])
    assert not two.old_serves, "one that follows the change is no former one"


def test_the_most_free_is_of_nodes_that_would_take_the_pod():
    """Each resource counts on its own; never less than nothing, and nothing where no node would do."""
    nodes = [node("a"), node("b"), node("cordoned", unschedulable=True), node("down", ready="False")]
    pods = [pod("1", "a", cpu="3"), pod("2", "b", cpu="3700m"), pod("3", "a", cpu="200m")]
    capacity = ClusterCapacity(nodes, pods)
    assert free_gpus.most_free({}, capacity) == {"cpu": 800, "memory": 8 * 2**30 * 1000}
    assert free_gpus.most_free({"spec": {"nodeSelector": {"pool": "x"}}}, capacity) == {}
    full = ClusterCapacity([node("a")], [pod("1", "a", cpu="5")])
    assert free_gpus.most_free({}, full)["cpu"] == 0


def contended(old, *waiting, nodes=(), needed=None):
    capacity = ClusterCapacity([node("a", 1), *nodes], [*old, *waiting])
    found = free_gpus.contender(needed or requests_of(pod(0)), old, old, capacity)
    return None if found is None else found.uid


def test_a_pod_that_waits_would_take_the_gpu_that_a_replica_frees():
    """A service that serves would be left without: its successor comes later."""
    old = [pod(1, "a")]
    assert contended(old, pod(9)) == 9
    assert contended(old) is None
    assert contended(old, pod(9, gpus="0", cpu="1")) is None, "there is room for both"
    assert contended(old, pod(9, gpus="0", cpu="4")) == 9, "of CPUs there is not"
    assert contended(old, pod(9, gpus="2")) is None, "one GPU is too few for it"
    assert contended(old, pod(9, nodeSelector={"zone": "x"})) is None, "it waits for another node"
    assert contended(old, pod(9, schedulingGates=[{"name": "kueue"}])) is None, "it waits for its queue"
    assert contended(old, pod(9), nodes=[node("b", 1)]) is None, "it is about to have another node"
    assert contended([*old, pod(2)]) is None, "a replica of one's own takes nothing away"
    assert contended([pod(1, "a", ending=True)], pod(9)) is None, "that one ends anyway"


def test_no_old_replica_makes_way_where_another_pod_would_take_its_place():
    old, seeks = pod(1, "a", revision="old"), pod(2)
    assert change([old, seeks], [node(gpus=1)]).old_makes_way
    other = pod(9) | {"metadata": {"uid": 9, "namespace": "them", "name": "theirs", "labels": {}}}
    found = change([old, seeks], [node(gpus=1)], [other])
    assert (found.old_makes_way, found.contender) == (False, "them/theirs")
