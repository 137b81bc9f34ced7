"""The chart's values: which are taken, and how a slip is reported. Needs helm alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from chart_switches import SWITCHES
from helm_runs import CHART, KUBERNETES, HelmError

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_lint_finds_nothing_even_if_strict(helm):
    assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replica": 3}, "at '': additional properties 'replica' not allowed"),
        ({"image": {"tagg": "1"}}, "at '/image': additional properties 'tagg' not allowed"),
        ({"monitoring": {"dashbord": {}}}, "at '/monitoring': additional properties 'dashbord' not allowed"),
        ({"log": {"level": "verbose"}}, "at '/log/level': value must be one of 'debug', 'info', 'warning', 'error'"),
        ({"replicas": "two"}, "at '/replicas': got string, want integer"),
        ({"watchNamespaces": "chat"}, "at '/watchNamespaces': got string, want array"),
        ({"image": {"digest": "sha256:abc"}}, "at '/image/digest': 'sha256:abc' does not match pattern"),
        ({"crds": {"install": True}}, "at '/crds/install': value must be one of 'Auto', 'Always', 'Never'"),
        ({"engine": {"images": {"sglang": "x"}}}, "at '/engine/images': additional properties 'sglang' not allowed"),
        ({"resources": {"limit": {}}}, "at '/resources': additional properties 'limit' not allowed"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_slip_is_refused_with_its_place_and_what_would_do(helm, values, message):
    with pytest.raises(HelmError) as refusal:
        helm.template(values)
    assert message in str(refusal.value)


def test_the_schema_has_the_same_values_as_the_chart():
    def compare(values: Any, schema: Any, path: str) -> None:
        if "additionalProperties" not in schema or schema["additionalProperties"] is not False:
            return
        known = set(schema["properties"]) - {"global"}
        if values and path.rpartition(".")[2] not in {"resources", "issuerRef"}:  # optional keys of Kubernetes' own
            assert known == set(values), path
            for key, value in values.items():
                compare(value, schema["properties"][key], f"{path}.{key}")

    compare(VALUES, SCHEMA, "")


def test_every_value_has_a_switch_that_is_tried_on_the_server():
    """A value that is added without one fails here."""

    def leaves(value: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if isinstance(value, dict) and value and path[-1:] not in {("resources",), ("labels",)}:
            return set().union(*(leaves(each, (*path, key)) for key, each in value.items()))
        return {path}

    tried = set().union(*(leaves(values) for values in SWITCHES.values()))
    assert {path for path in leaves(VALUES) if not any(each[: len(path)] == path for each in tried)} == set()


def test_the_images_are_named_by_registry_tag_and_digest(helm):
    """The registry stands before all of Octavo's images; a digest wins over a tag; a runtime's image is verbatim."""

    def images(values: dict[str, Any]) -> tuple[str, list[str]]:
        deployment = next(each for each in helm.template(values) if each["kind"] == "Deployment")
        operator = deployment["spec"]["template"]["spec"]["containers"][0]
        return operator["image"], [each for each in operator["args"] if each.startswith("--image")]

    digest = f"sha256:{'0' * 64}"
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]

    def engines(registry: str = "") -> list[str]:
        image = f"{registry}octavo/engine:{version}"
        return [f"--image=octavo={image}", f"--image=octavo-cuda={image}-cuda"]

    assert images({}) == (f"octavo/operator:{version}", engines())
    assert images({"image": {"registry": "registry.example:5000/", "tag": "next"}}) == (
        "registry.example:5000/octavo/operator:next",
        engines("registry.example:5000/"),
    )
    assert images({"image": {"tag": "next", "digest": digest}})[0] == f"octavo/operator@{digest}"
    assert images({"engine": {"images": {"octavo": "mine:1", "octavo-cuda": "mine:2", "vllm": "vllm:2"}}})[1] == [
        "--image=octavo=mine:1",
        "--image=octavo-cuda=mine:2",
        "--image=vllm=vllm:2",
    ]


def test_the_engines_environment_reaches_the_operator(helm):
    """Each variable is one argument, whatever stands in its value; a number is refused, for pods have strings."""
    env = {"HF_ENDPOINT": "http://hub.example:8080", "NO_PROXY": 'a, "b" = c', "EMPTY": ""}
    deployment = next(each for each in helm.template({"engine": {"env": env}}) if each["kind"] == "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    said = [each.removeprefix("--engine-env=") for each in arguments if each.startswith("--engine-env=")]
    assert dict(each.split("=", 1) for each in said) == env
    for wrong in ({"THREADS": 2}, {"not a name": "x"}):
        with pytest.raises(HelmError):
            helm.template({"engine": {"env": wrong}})


def test_where_the_platform_assigns_users_no_pod_of_the_chart_names_one(helm):
    """OpenShift is set by value, or found by its API; the operator gets the same flag, or looks for the same API."""

    def users(*arguments, **values):
        text = helm.run("template", "octavo", CHART, "--kube-version", KUBERNETES, *arguments, values=values)
        objects = [each for each in yaml.safe_load_all(text) if each]
        pods = [
            each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
            for each in objects
            if each["kind"] in {"Pod", "Deployment"}
        ]
        assert len(pods) == 2
        return {pod["securityContext"].get("runAsUser") for pod in pods}, "--pod-user=" in text

    openshift = ("--api-versions", "security.openshift.io/v1")
    assert users() == ({65532}, False)
    assert users(*openshift) == ({None}, False)
    assert users(podUser="Assigned") == ({None}, True)
    assert users(*openshift, podUser="Fixed") == ({65532}, True)
