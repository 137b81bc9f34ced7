"""`podTemplate` is laid over the pod as a strategic merge patch would be."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import tried

from octavo_operator.children.merge import merged

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "engine",
                "image": "octavo:1",
                "args": ["--model", "m"],
                "env": [{"name": "HOME", "value": "/tmp"}, {"name": "USER", "value": "octavo"}],
                "ports": [{"name": "http", "containerPort": 8000}],
                "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        "securityContext": {"runAsUser": 65532, "runAsNonRoot": True},
    },
}


def spec(**patch: Any) -> dict[str, Any]:
    return merged(BASE, {"spec": patch})["spec"]


def container(**patch: Any) -> dict[str, Any]:
    (found,) = spec(containers=[{"name": "engine", **patch}])["containers"]
    return found


def test_nothing_over_it_changes_nothing():
    assert merged(BASE, {}) == BASE


def test_the_engines_container_is_found_by_its_name():
    found = container(image="mine:2")
    assert found["image"] == "mine:2"
    assert found["args"] == ["--model", "m"]


def test_another_container_comes_beside_it():
    found = spec(containers=[{"name": "sidecar", "image": "s"}])["containers"]
    assert [each["name"] for each in found] == ["engine", "sidecar"]


def test_variables_are_found_by_name_and_keep_their_order():
    found = container(env=[{"name": "NEW", "value": "1"}, {"name": "HOME", "value": "/home"}])["env"]
    assert found == [
        {"name": "HOME", "value": "/home"},
        {"name": "USER", "value": "octavo"},
        {"name": "NEW", "value": "1"},
    ]


def test_a_variable_from_another_source_loses_its_value():
    """With both, the API server would refuse the pod."""
    source = {"fieldRef": {"fieldPath": "metadata.name"}}
    assert container(env=[{"name": "USER", "valueFrom": source}])["env"][1] == {"name": "USER", "valueFrom": source}


def test_a_volume_is_changed_within_its_source():
    assert spec(volumes=[{"name": "shm", "emptyDir": {"sizeLimit": "2Gi"}}])["volumes"] == [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    ]


def test_a_volume_from_another_source_replaces_it():
    assert spec(volumes=[{"name": "shm", "hostPath": {"path": "/dev/shm"}}])["volumes"] == [
        {"name": "shm", "hostPath": {"path": "/dev/shm"}}
    ]


def test_mounts_are_found_by_their_path_and_ports_by_their_number():
    found = container(
        volumeMounts=[{"name": "other", "mountPath": "/dev/shm"}, {"name": "x", "mountPath": "/x"}],
        ports=[{"containerPort": 8000, "hostPort": 80}],
    )
    assert found["volumeMounts"] == [{"name": "other", "mountPath": "/dev/shm"}, {"name": "x", "mountPath": "/x"}]
    assert found["ports"] == [{"name": "http", "containerPort": 8000, "hostPort": 80}]


def test_arguments_are_replaced_as_a_whole():
    """Arguments have no names to be merged by."""
    assert container(args=["--help"])["args"] == ["--help"]


def test_tolerations_are_added():
    """Replacement would drop the one for the GPU, and the pod would wait for ever."""
    spot = {"key": "spot", "operator": "Exists"}
    assert spec(tolerations=[spot])["tolerations"] == [BASE["spec"]["tolerations"][0], spot]
    assert spec(tolerations=BASE["spec"]["tolerations"])["tolerations"] == BASE["spec"]["tolerations"]


def test_null_removes_a_field():
    assert spec(securityContext={"runAsUser": None})["securityContext"] == {"runAsNonRoot": True}


def test_mappings_are_merged_at_any_depth():
    assert container(resources={"limits": {"memory": "1Gi"}})["resources"]["limits"] == {
        "nvidia.com/gpu": "1",
        "memory": "1Gi",
    }
    assert merged(BASE, {"metadata": {"labels": {"b": "2"}}})["metadata"]["labels"] == {"a": "1", "b": "2"}


def test_directives_of_a_patch_are_understood():
    assert container(env=[{"name": "USER", "$patch": "delete"}])["env"] == [{"name": "HOME", "value": "/tmp"}]
    assert container(env=[{"$patch": "replace"}, {"name": "A", "value": "b"}])["env"] == [{"name": "A", "value": "b"}]
    assert spec(securityContext={"$patch": "replace", "fsGroup": 1})["securityContext"] == {"fsGroup": 1}
    assert "securityContext" not in spec(securityContext={"$patch": "delete"})


def test_unknown_fields_are_kept():
    assert spec(inventedYesterday=[{"a": 1}])["inventedYesterday"] == [{"a": 1}]


def test_a_list_of_another_shape_is_taken_as_it_is():
    """What is wrong about it, the API server says better."""
    assert spec(containers=["engine"])["containers"] == ["engine"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["engine", "delete", "replace", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["spec", "metadata", "containers", "env", "volumes", "tolerations", "name", "$patch"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["spec", "metadata", "$patch"]), VALUES, max_size=3))
@tried(150)
def test_any_patch_is_laid_over_without_a_traceback_and_changes_neither(patch):
    base, before = deepcopy(BASE), deepcopy(patch)
    once = merged(base, patch)
    assert (base, patch) == (BASE, before)
    assert merged(base, patch) == once
