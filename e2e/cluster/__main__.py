"""The verbs of the cluster: python -m e2e.cluster up | down | status | gpus | push | packages."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from octavo_testing.kubernetes_binaries import build

from e2e.cluster.bring_up import bring_up, step
from e2e.cluster.handles import MissingError
from e2e.cluster.images import built_archives
from e2e.cluster.layout import MOST_NODES, chosen_name, known, locked
from e2e.cluster.own import OwnCluster
from e2e.cluster.registry import RegistryError
from e2e.cluster.requirements import missing_packages
from e2e.cluster.sandboxes import SandboxError
from e2e.cluster.tear_down import tear_down

PRODUCT = "NVIDIA-A100-SXM4-40GB"


def main() -> int:
    """0; 1 when something failed, with its words; 2 when the machine or the command line lacks something."""
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="bring the cluster up, or complete it")
    up.add_argument("--nodes", type=int, default=1, choices=range(1, MOST_NODES + 1), help="at least")
    up.add_argument("--ipv6", action="store_true", help="a new cluster has IPv6 addresses and no others")
    up.add_argument("--gpus", type=int, default=None, help="pretended GPUs on each node")
    up.add_argument("--product", default=PRODUCT, help="what they are called: %(default)s")
    verbs.add_parser("down", help="remove the cluster, and check that nothing is left")
    verbs.add_parser("status", help="what runs")
    gpus = verbs.add_parser("gpus", help="give a node pretended GPUs")
    gpus.add_argument("node")
    gpus.add_argument("count", type=int)
    gpus.add_argument("--product", default=PRODUCT, help="what they are called: %(default)s")
    push = verbs.add_parser("push", help="push OCI archives into the registry")
    push.add_argument("archives", nargs="*", type=Path, help="by default those that `make images` has built")
    verbs.add_parser("packages", help="the Debian packages that are missing, on one line")
    options = parser.parse_args()
    verb = {"up": _up, "down": _down, "status": _status, "gpus": _gpus, "push": _push, "packages": _packages}
    try:
        return verb[options.verb](options)
    except MissingError as error:
        print(*error.sentences, sep="\n", file=sys.stderr)
        return 2
    except (SandboxError, RegistryError, build.BuildError, AssertionError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; `make cluster` starts again, `make cluster-down` removes what is there", file=sys.stderr)
        return 130


def _up(options: argparse.Namespace) -> int:
    started = time.monotonic()
    cluster = bring_up(chosen_name(), options.nodes, ipv6=options.ipv6)
    if options.gpus is not None:
        for node in cluster.nodes:
            cluster.set_gpus(node, options.gpus, options.product)
    folder = os.path.relpath(cluster.layout.hand_out())
    print(
        f"cluster {cluster.layout.name} is ready: {', '.join(cluster.nodes)} ({time.monotonic() - started:.0f} s)\n"
        f"  registry {cluster.urls.registry}   packages {cluster.urls.index}   hub {cluster.urls.hub}\n\n"
        f"  export KUBECONFIG=$PWD/{folder}/kubeconfig PATH=$PWD/{folder}/bin:$PATH\n"
        "  make cluster-images\n"
        # Pods have no way out: engines are given the index and the hub that the cluster brings.
        "  helm install octavo charts/octavo -n octavo-system --create-namespace --wait"
        f" --set engine.env.PIP_INDEX_URL={cluster.urls.index} --set engine.env.HF_ENDPOINT={cluster.urls.hub}"
    )
    return 0


def _down(_: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise MissingError("removing a cluster needs root, as making it did.")
    name = chosen_name()
    with locked(name), step(f"removing cluster {name}"):
        left = tear_down(name)
    print(*(left or ["  nothing is left: no process, mount, network device, cgroup or folder"]), sep="\n")
    return 1 if left else 0


def _status(_: argparse.Namespace) -> int:
    print(_running().kubectl("get", "nodes,pods", "-A", "-o", "wide"), end="")
    return 0


def _gpus(options: argparse.Namespace) -> int:
    _running().set_gpus(options.node, options.count, options.product)
    return 0


def _push(options: argparse.Namespace) -> int:
    cluster = _running()
    archives = options.archives or built_archives()
    if not archives:
        raise MissingError("no image has been built yet; make images does.")
    for archive in archives:
        for name in cluster.push_image(archive):
            print(name)
    return 0


def _packages(_: argparse.Namespace) -> int:
    print(*missing_packages())
    return 0


def _running() -> OwnCluster:
    layout = known(chosen_name())
    if not layout or not layout.complete.exists():
        raise MissingError(f"there is no cluster {chosen_name()}; make cluster brings it up.")
    return OwnCluster(layout)


if __name__ == "__main__":
    sys.exit(main())
