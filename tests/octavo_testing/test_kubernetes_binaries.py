"""The builder: what it takes, what it makes, and what it says when it can't. A stand-in plays Go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from octavo_testing.kubernetes_binaries import BUILDER, build

# Writes what it was asked for where it was asked to; `FAKE_GO_FAILS` names what can't be built.
FAKE_GO = """#!/bin/sh
[ "$1" = env ] && { echo go${FAKE_GO_VERSION:-1.26.8}; exit; }
echo "$@" >> "$FAKE_GO_LOG"
echo "GOFLAGS=$GOFLAGS CGO_ENABLED=$CGO_ENABLED" >> "$FAKE_GO_LOG"
sleep "${FAKE_GO_SECONDS:-0}"
made="$6"; [ "$1" = install ] && made="$GOBIN/$(basename "${5%@*}")"
case "$made" in *"$FAKE_GO_FAILS") echo "no such module"; exit 3;; esac
[ -n "$FAKE_GO_PAUSE" ] && { echo half > "$made"; kill -9 $PPID; exit; }
printf '#!/bin/sh\\necho Kubernetes v1.34.4\\n' > "$made"; chmod +x "$made"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a stand-in for Go, an empty cache, and none of a person's settings."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "go").write_text(FAKE_GO)
    (tools / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_GO_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_GO_FAILS", "/nothing")
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path


def builds(machine: Path) -> list[str]:
    """The packages that Go was asked to build."""
    log = machine / "log"
    return (
        [line.split()[-1] for line in log.read_text().splitlines() if line.startswith("build")] if log.exists() else []
    )


def test_everything_is_built_once_and_each_step_is_printed(machine, capsys):
    """The version is set, and a person's GOFLAGS do not reach the build."""
    folder = build.binaries()
    assert folder.parent == machine / "cache" / "kubernetes"
    assert folder.name.startswith("v1.34.4-")
    assert build.missing(folder) == []
    assert builds(machine) == [package for package, _ in build.COMMANDS.values()]
    assert "version.gitVersion=v1.34.4" in (machine / "log").read_text()
    assert "GOFLAGS=-mod=readonly CGO_ENABLED=0" in (machine / "log").read_text()
    error = capsys.readouterr().err
    assert all(f"{name} is built" in error for name in build.COMMANDS)
    assert build.binaries() == folder
    assert len(builds(machine)) == 5
    assert capsys.readouterr().err == ""


def test_only_what_is_missing_is_built(machine):
    folder = build.binaries()
    (folder / "kubectl").unlink()
    build.binaries()
    assert builds(machine)[5:] == [build.COMMANDS["kubectl"][0]]


@pytest.mark.parametrize("name", build.TOOLS)
def test_a_tool_is_built_at_its_own_version_into_a_folder_of_its_own(name, machine, monkeypatch):
    """Another version lies in another folder, and what a person has of Kubernetes' binaries doesn't matter."""
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(machine))
    tool, path = build.TOOLS[name], build.binary(name)
    assert path.name == name
    assert path.parent.name.startswith(f"{name}-{tool.version}-")
    assert f"{tool.package}@{tool.version}" in (machine / "log").read_text()
    (machine / "log").unlink()
    assert build.binary(name) == path
    assert not (machine / "log").exists()


def test_a_nodes_commands_are_of_one_version(machine, monkeypatch):
    """A person's own binaries are not taken for a node, whose kubelet is built here."""
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(_assets(machine, *build.COMMANDS, version="v1.31.0")))
    names = ["kube-apiserver", *build.NODE]
    assert {build.binary(name).parent for name in names} == {build.binary("kubelet").parent}
    assert builds(machine) == [(build.COMMANDS | build.NODE)[name][0] for name in names]


def test_how_long_several_will_take_is_printed_first(machine, capsys):
    build.ensure(["kubelet", "helm"])
    assert "2 programs are to be built, once: about 2 min" in capsys.readouterr().err
    build.ensure(["kubelet", "helm"])
    assert capsys.readouterr().err == ""


def test_a_command_that_nothing_builds_is_refused_with_those_that_are(machine):
    done = subprocess.run([sys.executable, BUILDER, "minikube"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing builds minikube; there is etcd" in done.stderr
    assert "local-path-provisioner" in done.stderr


def test_a_build_that_is_killed_leaves_no_half_binary_and_goes_on_next_time(machine, monkeypatch):
    monkeypatch.setenv("FAKE_GO_PAUSE", "yes")
    killed = subprocess.run([sys.executable, BUILDER], capture_output=True, check=False)
    assert killed.returncode == -9
    (folder,) = (machine / "cache" / "kubernetes").iterdir()
    assert build.missing(folder) == list(build.COMMANDS)
    monkeypatch.delenv("FAKE_GO_PAUSE")
    assert build.missing(build.binaries()) == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(build.SCRATCH)] == []


def test_a_build_that_fails_reports_gos_words_and_the_remedy(machine, monkeypatch):
    monkeypatch.setenv("FAKE_GO_FAILS", "kube-scheduler")
    with pytest.raises(
        build.BuildError, match=r"kube-scheduler v1\.34\.4(.|\n)*no such module(.|\n)*KUBEBUILDER_ASSETS"
    ):
        build.binaries()


def test_two_builders_build_once(machine):
    """The second waits, and finds everything there."""
    processes = [subprocess.Popen([sys.executable, BUILDER], stdout=subprocess.PIPE) for _ in range(2)]
    folders = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(folders) == 1
    assert len(builds(machine)) == 5


def test_an_old_go_is_not_used(machine, monkeypatch):
    """PyPI's is, in an environment of its own inside the cache."""
    monkeypatch.setenv("FAKE_GO_VERSION", "1.21.0")
    own = machine / "cache" / "go" / "bin" / "go"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\necho go1.26.4\n")
    own.chmod(0o755)
    assert build.find_go() == own


def test_a_persons_own_binaries_are_used(machine, monkeypatch):
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(_assets(machine, *build.COMMANDS)))
    assert build.binaries() == machine / "assets"
    assert builds(machine) == []


def test_what_envtest_lacks_is_built_beside_it(machine, monkeypatch):
    """envtest's archives hold neither controller manager nor scheduler."""
    assets = _assets(machine, "etcd", "kube-apiserver", "kubectl")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    folder = build.binaries()
    assert (folder / "kube-apiserver").resolve() == assets / "kube-apiserver"
    assert builds(machine) == [build.COMMANDS[name][0] for name in ("kube-controller-manager", "kube-scheduler")]
    assert build.binaries() == folder
    assert len(builds(machine)) == 2


def test_envtest_of_another_version_is_refused_with_the_ways_out(machine, monkeypatch):
    assets = _assets(machine, "etcd", "kube-apiserver", "kubectl", version="v1.31.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    with pytest.raises(build.BuildError, match=r"v1\.31\.0(.|\n)*unset KUBEBUILDER_ASSETS"):
        build.binaries()


def test_a_folder_without_an_api_server_is_refused(machine, monkeypatch):
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(_assets(machine, "etcd")))
    with pytest.raises(build.BuildError, match="has no kube-apiserver, kubectl"):
        build.binaries()


def _assets(machine: Path, *names: str, version: str = "v1.34.4") -> Path:
    folder = machine / "assets"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_build_counts_against_no_tests_time_limit(machine, monkeypatch):
    """A build takes minutes, and is done before the first test; a failure is reported by each test that needs it."""
    monkeypatch.setenv("FAKE_GO_SECONDS", "3")
    monkeypatch.setenv("FAKE_GO_FAILS", "/etcd")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    chosen = f"{Path(__file__).parent}/test_control_plane.py::test_the_dynamic_client_works"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=2", "-q", chosen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert "Timeout" not in done.stdout
    assert "etcd v1.34.4 could not be built" in done.stdout
    assert "etcd …" in done.stderr
