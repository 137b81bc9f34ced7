"""Diagnoses a model's claim that has no volume, or that a replica does not get, with the remedy. Pure."""

from __future__ import annotations

import re

from octavo_operator.api.observed import Observed
from octavo_operator.api.reasons import StorageReason
from octavo_operator.planner import Plan
from octavo_operator.planner.plan import CachePlan
from octavo_operator.reconcile import free_gpus
from octavo_operator.reconcile.diagnosis.trouble import Trouble

# As the provisioners of local-path, EBS, GCE PD, Azure Disk, Ceph RBD and others word it.
ACCESS_MODE = re.compile(
    r"access ?modes?\b.*\b(?:support|allow|invalid)|\bsupports?\b.*access ?modes?|multi.?(?:node.?multi.?)?writer"
    r"|volume ?capabilit(?:y|ies)\b.*(?:not supported|invalid)",
    re.IGNORECASE,
)


def trouble_of(cache: CachePlan, observed: Observed) -> Trouble | None:
    """Diagnose the cache's claim; None where it has a volume, or no controller warns: many are made only for a placed pod."""
    claim = observed.child("PersistentVolumeClaim", cache.claim)
    if claim is not None and claim.get("status", {}).get("phase") == "Lost":
        text = f"the volume of {cache.claim} is lost; delete the claim, and it is created again"
        return Trouble(StorageReason.CLAIM_LOST, text, stuck=True, rank=0)
    words = observed.claim_message
    if not words:
        return None
    text = f"the claim {cache.claim} has no volume: {words}"
    if "storageclass" in words and "not found" in words:
        remedy = "create that storage class, or remove spec.cache and set it again with one of kubectl get storageclass"
        return Trouble(StorageReason.STORAGE_CLASS_MISSING, f"{text}; {remedy}", stuck=True, rank=0)
    if "no storage class is set" in words:
        remedy = "mark a storage class as the cluster's default, or remove spec.cache and set it again with one"
        return Trouble(StorageReason.NO_STORAGE_CLASS, f"{text}; {remedy}", stuck=True, rank=0)
    if ACCESS_MODE.search(words):
        remedy = (
            f"{cache.access_mode} is more than that class can do: set cache.accessMode: ReadWriteOnce, which keeps all "
            "replicas on one node, or cache.storageClassName of one that shares files (NFS, EFS, Filestore, Azure Files); "
            "the claim is then made again"
        )
        return Trouble(StorageReason.ACCESS_MODE, f"{text}; {remedy}", stuck=True, rank=0)
    return Trouble(
        StorageReason.CLAIM_PENDING,
        f"{text}; it is tried again by the storage class's provisioner",
        stuck=False,
        rank=0,
    )


def detained(plan: Plan, observed: Observed) -> Trouble | None:
    """A replica that has a node and waits for a volume which is still attached to another one (Multi-Attach)."""
    if not plan.pod.exclusive:
        return None
    everyone = (*observed.pods, *observed.holders)
    for pod in observed.pods:
        for holder in free_gpus.detained_by(pod, everyone, plan.pod.exclusive):
            (claim, *_) = sorted(free_gpus.claims_of(pod) & free_gpus.claims_of(holder) & set(plan.pod.exclusive))
            node, name = holder["spec"]["nodeName"], holder["metadata"]["name"]
            text = (
                f"the claim {claim} is on one node at a time, and the pod {name} has it on {node}: the replica on "
                f"{pod['spec']['nodeName']} starts once that pod has ended"
            )
            if "deletionTimestamp" in holder["metadata"]:
                text += (
                    f"; if {node} is down for good: kubectl taint node {node} "
                    "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
                )
            else:
                text += "; a claim with accessMode ReadWriteMany would do for both"
            return Trouble(StorageReason.MULTI_ATTACH, text, stuck=False, rank=6)
    return None
