"""A real Kubernetes for the end-to-end suite: one of our own on this machine, kind's, or the one of $KUBECONFIG.

    from e2e.cluster import open_cluster

    cluster = open_cluster()                            # brings one up if need be; MissingError says what a machine lacks
    cluster.kubeconfig, cluster.is_ours, cluster.nodes  # a Path, a bool, the nodes' names
    cluster.kubectl("apply", "-f", "-", stdin=text)     # its output; AssertionError with its words
    cluster.push_image(archive)                         # an OCI archive; pods then name it "octavo/engine:0.1.0"
    cluster.set_gpus("node-1", 2, "NVIDIA-A100-SXM4-40GB")
    cluster.urls.registry, .index, .hub                 # as pods reach them
    cluster.publish_model("org/name", folder)           # hf://org/name; publish_package(wheel) for package://
    cluster.tool("helm")                                # a binary that belongs to the cluster's version

Which one: $KUBECONFIG where it is set, else our own where it runs or can run, else kind. e2e/README.md says what
each needs. `python -m e2e.cluster` has the verbs that make calls.

The cluster's code needs the standard library alone, so that it works before anything is installed. Keys, API client
and stand-ins are those of tests/, which are flat modules.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "testing"))  # for `python -m e2e.cluster`, and for people's own scripts

from e2e.cluster.handles import Cluster, MissingError, Urls  # noqa: E402
from e2e.cluster.opening import open_cluster  # noqa: E402

__all__ = ["Cluster", "MissingError", "Urls", "open_cluster"]
