"""Chooses the cluster that the suite runs on."""

from __future__ import annotations

import os
from pathlib import Path

from e2e.cluster.bring_up import bring_up
from e2e.cluster.credentials import kubeconfig_of
from e2e.cluster.given import given_cluster, kind_cluster
from e2e.cluster.handles import Cluster, MissingError
from e2e.cluster.layout import chosen_name, everyone


def open_cluster(nodes: int = 1) -> Cluster:
    """$KUBECONFIG's cluster, else our own with at least so many nodes (brought up if need be), else kind's.

    Raises MissingError where none can be, with a sentence for each thing that keeps one from running here.
    """
    name = _own_of_kubeconfig()
    given = None if name else given_cluster()
    if given:
        return given
    name = name or chosen_name()
    try:
        return bring_up(name, nodes)
    except MissingError as error:
        kind = kind_cluster(name)
        if kind:
            return kind
        raise MissingError(
            *error.sentences, "Or set KUBECONFIG, or install kind and docker; e2e/README.md says what each needs."
        ) from error


def _own_of_kubeconfig() -> str:
    """The name of the own cluster that $KUBECONFIG is of, for `make cluster` prints this variable to be exported."""
    given = Path(os.environ.get("KUBECONFIG", "")).expanduser()
    if not given.is_file():
        return ""
    text = given.read_text()
    of_ours = (layout.name for layout in everyone() if text == _read(kubeconfig_of(layout, "admin")))
    return next(of_ours, "")


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
