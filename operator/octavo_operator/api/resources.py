"""The kinds that the operator watches, lists and writes, and where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass

from octavo_operator.api.v1alpha1 import API_VERSION, GROUP, KIND, PLURAL


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind. An `optional` child is removed when the plan no longer has it; the others stay with their service.

    A service does without a `dispensable` one where the operator may not list it, as under rights of an older release.
    """

    api_version: str
    kind: str
    plural: str
    optional: bool = False
    namespaced: bool = True
    dispensable: bool = False

    @property
    def group(self) -> str:
        """Empty for the core group."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Path of the collection in a namespace, or everywhere; or of one object."""
        base = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        within = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        return f"{base}{within}/{self.plural}" + (f"/{name}" if name else "")


SERVICES = Resource(API_VERSION, KIND, PLURAL)
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
MONITORS = Resource("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors", optional=True)
AUTOSCALERS = Resource(
    "autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", optional=True, dispensable=True
)
CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims", optional=True)
JOBS = Resource("batch/v1", "Job", "jobs", optional=True)
PODS = Resource("v1", "Pod", "pods")
NODES = Resource("v1", "Node", "nodes", namespaced=False)
EVENTS = Resource("events.k8s.io/v1", "Event", "events")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
SECRETS = Resource("v1", "Secret", "secrets")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
API_SERVICES = Resource("apiregistration.k8s.io/v1", "APIService", "apiservices", namespaced=False)
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False)
SECURITY_CONSTRAINTS = Resource(
    "security.openshift.io/v1", "SecurityContextConstraints", "securitycontextconstraints", namespaced=False
)
TOKEN_REVIEWS = Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False)
ACCESS_REVIEWS = Resource("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False)

CHILDREN = (
    DEPLOYMENTS,
    Resource("v1", "Service", "services"),
    CLAIMS,
    JOBS,
    AUTOSCALERS,
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", optional=True, dispensable=True),
    Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", optional=True, dispensable=True),
)
"""Kinds that a service may have in any cluster; MONITORS as well, where the cluster serves them."""

BY_KIND = {resource.kind: resource for resource in (*CHILDREN, MONITORS)}
assert GROUP in SERVICES.api_version
