"""Explains the API server's rejections to a person: a reason, its own words, and the remedy. Pure.

One table, by the words of the admission plugin that refused; the status code decides only where no plugin is known. A
403 is RBAC's only if its message is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from octavo_operator.api.reasons import ApiReason
from octavo_operator.reconcile.applying import Rejection
from octavo_operator.reconcile.diagnosis.redaction import redacted
from octavo_operator.reconcile.diagnosis.trouble import Trouble


@dataclass(frozen=True, slots=True)
class RejectionSignature:
    """`stuck`: it takes a person; otherwise a later try may succeed."""

    reason: ApiReason
    words: re.Pattern[str]
    remedy: str
    stuck: bool = True


def _rule(reason: ApiReason, words: str, remedy: str, *, stuck: bool = True) -> RejectionSignature:
    return RejectionSignature(reason, re.compile(words), remedy, stuck)


SIGNATURES = (
    _rule(
        ApiReason.WEBHOOK_FAILED,
        r"failed calling webhook|failed to call webhook",
        "fix the webhook's service, or exempt the namespace from it; it is tried again",
        stuck=False,
    ),
    _rule(
        ApiReason.NAMESPACE_TERMINATING,
        r'because it is being terminated|^namespaces "[^"]*" not found',
        "nothing can be created in it any more",
    ),
    _rule(
        ApiReason.QUOTA_NEEDS_VALUES,
        r"failed quota: .*must specify",
        "set in resources.requests and resources.limits what it lists",
    ),
    _rule(
        ApiReason.QUOTA_NOT_READY,
        r"status unknown for quota",
        "the quota's controller has not counted yet; it is tried again",
        stuck=False,
    ),
    _rule(ApiReason.QUOTA_EXCEEDED, r"exceeded quota", "raise the ResourceQuota, or ask for less"),
    _rule(
        ApiReason.QUOTA_EXCEEDED,
        r"insufficient quota to match these scopes",
        "allow this priority class in the ResourceQuota",
    ),
    _rule(
        ApiReason.LIMIT_RANGE,
        r"(?:maximum|minimum) (?:\S+ usage|\S+ to \S+ ratio|limit to request ratio|storage size)\b|max limit to request ratio",
        "change resources to what the namespace's LimitRange allows, or the LimitRange",
    ),
    # A pod alone, made of a Deployment that was valid: a default of the LimitRange came in between.
    _rule(
        ApiReason.LIMIT_RANGE,
        r'\bPod "[^"]*" is invalid: \S+\.resources\.requests: .*must be less than or equal to',
        "set resources.limits: the namespace's LimitRange gives a limit that is less than what is requested",
    ),
    _rule(
        ApiReason.PRIORITY_CLASS,
        r"no PriorityClass with name",
        "create it, or change podTemplate.spec.priorityClassName",
    ),
    _rule(
        ApiReason.RUNTIME_CLASS, r"RuntimeClass \S+ not found", "create it, or change podTemplate.spec.runtimeClassName"
    ),
    _rule(
        ApiReason.SERVICE_ACCOUNT,
        r"error looking up service account|serviceaccount \S+ not found",
        "create it, or change podTemplate.spec.serviceAccountName",
    ),
    _rule(
        ApiReason.SECRET_NOT_ALLOWED,
        r"is not referenced by service account",
        "add the Secret to that ServiceAccount",
    ),
    _rule(
        ApiReason.CLAIM_CANNOT_GROW,
        r"only dynamically provisioned pvc can be resized|must support resize|does not support volume expansion",
        "take cache.size back, or allow the storage class to expand volumes (allowVolumeExpansion: true)",
    ),
    _rule(
        ApiReason.NODE_SELECTOR,
        r"node label selector conflicts|conflicts with its namespace",
        "change podTemplate.spec.nodeSelector to what the namespace allows",
    ),
    _rule(
        ApiReason.SECURITY_CONTEXT,
        r"unable to validate against any (?:pod )?security (?:context constraint|policy)",
        "let the platform assign the user (the operator's --pod-user Assigned, the chart's podUser), or grant the "
        "ServiceAccount an SCC",
    ),
    _rule(
        ApiReason.POD_SECURITY,
        r'violates PodSecurity "',
        "change podTemplate to what that level allows, or the namespace's level",
    ),
    _rule(
        ApiReason.ADMISSION_DENIED,
        r"denied the request|denied request|image policy webhook|Unauthorized by .* policy",
        "satisfy the policy, or have the service exempted from it",
    ),
    _rule(
        ApiReason.UNKNOWN_FIELD,
        r"field not declared in schema|unknown field \"|strict decoding error",
        "correct the field's name in podTemplate",
    ),
    _rule(
        ApiReason.FIELD_MANAGER,
        r"Apply failed with \d+ conflict",
        "see who else applies these fields: kubectl get --show-managed-fields",
        stuck=False,
    ),
    _rule(
        ApiReason.SERVER_BUSY,
        r"etcdserver: |too many requests|the server is currently unable to handle the request|leader changed",
        "it is tried again",
        stuck=False,
    ),
    _rule(
        ApiReason.FORBIDDEN,
        r"User \"[^\"]*\" cannot \S+ resource|cannot set blockOwnerDeletion",
        "give the operator the rights in config/rbac",
    ),
)


def trouble_of(rejection: Rejection) -> Trouble:
    """Diagnose a child that is missing or is not what it should be."""
    what = f"{rejection.kind} {rejection.name}"
    words = redacted(rejection.words)
    if rejection.reason == "NameTaken":
        return Trouble(ApiReason.NAME_TAKEN, words, stuck=True, rank=0)
    if rejection.reason == "FormerTerminating":
        return Trouble(ApiReason.FORMER_REMOVED, words, stuck=False, rank=0)
    if rejection.reason == "Terminating":
        return Trouble(ApiReason.OBJECT_TERMINATING, words, stuck=False, rank=0)
    if rejection.reason == "NoAnswer":
        text = f"{what}: {words}; see whether an admission webhook is slow (it may take ten seconds); it is tried again"
        return Trouble(ApiReason.NO_ANSWER, text, stuck=False, rank=0)
    if "NamespaceTerminating" in rejection.causes:
        return Trouble(
            ApiReason.NAMESPACE_TERMINATING,
            f"{what}: {words}; nothing can be created in it any more",
            stuck=True,
            rank=0,
        )
    for rule in SIGNATURES:
        if rule.words.search(words):
            return Trouble(rule.reason, f"{what}: {words}; {rule.remedy}", rule.stuck, rank=0)
    reason, remedy, stuck = _by_status(rejection)
    return Trouble(reason, f"{what}: {words}; {remedy}", stuck, rank=0)


def _by_status(rejection: Rejection) -> tuple[ApiReason, str, bool]:
    """Diagnose by the status code, where the words of no admission plugin match."""
    if rejection.status == 401:
        return ApiReason.UNAUTHORIZED, "the operator's credentials are not accepted: see its log", False
    if rejection.status == 403:
        return (
            ApiReason.ADMISSION_DENIED,
            "an admission plugin of the cluster refuses it: satisfy it, or change podTemplate",
            True,
        )
    if rejection.status == 404:
        return ApiReason.KIND_UNKNOWN, "install its CustomResourceDefinition", True
    if rejection.status == 422 and rejection.kind == "PersistentVolumeClaim":
        return ApiReason.CLAIM_IMMUTABLE, "this field of a claim can't be changed: take the change back", True
    if rejection.status in {400, 413, 422}:
        return ApiReason.CHILD_INVALID, "fix the field of the spec that it came from", True
    return (
        ApiReason.APPLY_FAILED,
        "it is tried again",
        rejection.status < 500 and rejection.status not in {408, 409, 429},
    )
