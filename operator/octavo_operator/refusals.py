"""What the API server's refusals mean for a person: a reason, its own words, and the remedy. Pure."""

from __future__ import annotations

from octavo_operator.applying import Refused
from octavo_operator.pod_troubles import Trouble


def trouble_of(refused: Refused) -> Trouble:
    """Why a child is missing or is not what it should be."""
    what = f"{refused.kind} {refused.name}"
    words = refused.words
    if refused.reason == "NameTaken":
        return Trouble("NameTaken", words, stuck=True, rank=0)
    if refused.reason == "Terminating":
        return Trouble("FormerServiceRemoved", words, stuck=False, rank=0)
    if refused.reason == "NoAnswer":
        text = f"{what}: {words}; see whether an admission webhook is slow (it may take ten seconds); it is tried again"
        return Trouble("NoAnswer", text, stuck=False, rank=0)
    if "failed calling webhook" in words:
        text = f"{what}: {words}; mend the webhook, or exempt the namespace from it; it is tried again"
        return Trouble("WebhookFailed", text, stuck=False, rank=0)
    if "NamespaceTerminating" in refused.causes or "is being terminated" in words:
        return Trouble(
            "NamespaceTerminating", f"{what}: {words}; nothing can be made in it any more", stuck=True, rank=0
        )
    if "exceeded quota" in words:
        return Trouble(
            "QuotaExceeded", f"{what}: {words}; raise the ResourceQuota, or ask for less", stuck=True, rank=0
        )
    if "denied the request" in words or "denied request" in words:
        text = f"{what}: {words}; satisfy the policy, or have the service exempted from it"
        return Trouble("AdmissionDenied", text, stuck=True, rank=0)
    if "PodSecurity" in words:
        return Trouble("PodSecurityViolated", f"{what}: {words}; mend podTemplate", stuck=True, rank=0)
    if refused.status == 403:
        text = f"{what}: {words}; give the operator the rights in config/rbac"
        return Trouble("Forbidden", text, stuck=True, rank=0)
    if refused.status == 404:
        return Trouble("KindUnknown", f"{what}: {words}; install its CustomResourceDefinition", stuck=True, rank=0)
    if refused.status == 422 and refused.kind == "PersistentVolumeClaim":
        text = f"{what}: {words}; a claim can't be changed so: delete it, or take the change back"
        return Trouble("ClaimImmutable", text, stuck=True, rank=0)
    if refused.status in {400, 422}:
        return Trouble(
            "ChildInvalid", f"{what}: {words}; mend the field of the spec that it came from", stuck=True, rank=0
        )
    return Trouble("ApplyFailed", f"{what}: {words}; it is tried again", stuck=refused.status < 500, rank=0)
