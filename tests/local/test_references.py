"""Secrets and ConfigMaps of a manifest are found in its file or by a flag; a missing one is named with the remedy."""

import pytest

from octavo_operator.api.manifest import Manifest, read_manifest
from octavo_operator.errors import LocalError
from octavo_operator.local.launch import divide_cores
from octavo_operator.local.references import References

TEXT = """
apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata: {name: a}
spec: {model: {uri: hf://a/b}}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {binary: /w==}
stringData: {k: " value\\n"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {t: "text\\n"}
"""


@pytest.fixture
def manifest() -> Manifest:
    return read_manifest(TEXT)


def test_values_come_from_the_manifests_file(manifest):
    references = References.of(manifest, [], [])
    assert references.secret("s", "k", "x") == "value"
    assert references.config_map("c", "t", "x") == "text\n"


def test_a_file_by_flag_wins(manifest, tmp_path):
    (tmp_path / "f").write_text("other\n")
    references = References.of(manifest, [f"s={tmp_path}/f"], [f"c={tmp_path}/f"])
    assert references.secret("s", "k", "x") == "other"
    assert references.config_map("c", "t", "x") == "other\n"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda r: r.secret("none", "k", "spec.x"),
            r"spec.x refers to Secret none, which is not in the file.*--secret none=",
        ),
        (lambda r: r.secret("s", "none", "spec.x"), r"refers to the key none of Secret s, which holds binary, k"),
        (lambda r: r.secret("s", "binary", "spec.x"), r"Secret s: binary is not UTF-8 text"),
        (lambda r: r.config_map("none", "k", "spec.x"), r"ConfigMap none.*--config-map none=FILE"),
    ],
)
def test_what_is_missing_is_named(manifest, ask, message):
    with pytest.raises(LocalError, match=message):
        ask(References.of(manifest, [], []))


@pytest.mark.parametrize("text", ["s", "=f", "s="])
def test_a_flag_that_is_not_name_and_file_is_refused(manifest, text):
    with pytest.raises(LocalError, match="write --secret NAME=FILE"):
        References.of(manifest, [text], [])


def test_a_file_that_cannot_be_read_is_reported(manifest, tmp_path):
    references = References.of(manifest, [f"s={tmp_path}/none"], [])
    with pytest.raises(LocalError, match="can't be read: No such file"):
        references.secret("s", "k", "x")


@pytest.mark.parametrize(
    ("cores", "replicas", "shares"),
    [
        ({0, 1}, 1, [None]),
        ({0, 1}, 2, [{0}, {1}]),
        ({0, 1, 2, 3, 4}, 2, [{0, 2, 4}, {1, 3}]),
        ({3, 7}, 3, [{3}, {7}, {3}]),
    ],
)
def test_replicas_share_out_the_cores(cores, replicas, shares, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: cores)
    assert list(divide_cores(replicas)) == shares
