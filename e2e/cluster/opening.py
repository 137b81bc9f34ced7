"""Which cluster the suite runs on."""

from __future__ import annotations

from e2e.cluster.bring_up import bring_up
from e2e.cluster.given import given_cluster, kind_cluster
from e2e.cluster.handles import Cluster, MissingError
from e2e.cluster.layout import chosen_name


def open_cluster(nodes: int = 1) -> Cluster:
    """$KUBECONFIG's cluster, else our own with at least so many nodes (brought up if need be), else kind's.

    Raises MissingError where none can be, with a sentence for each thing that keeps one from running here.
    """
    given = given_cluster()
    if given:
        return given
    name = chosen_name()
    try:
        return bring_up(name, nodes)
    except MissingError as error:
        kind = kind_cluster(name)
        if kind:
            return kind
        raise MissingError(
            *error.sentences, "Or set KUBECONFIG, or install kind and docker; e2e/README.md tells what each needs."
        ) from error
