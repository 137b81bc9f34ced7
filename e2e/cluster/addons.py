"""The programs that every cluster runs: CoreDNS, and local-path-provisioner as the default StorageClass."""

from __future__ import annotations

import json
from typing import Any

from e2e.cluster.images import BUSYBOX, COREDNS, PROVISIONER
from e2e.cluster.layout import DOMAIN

Manifest = dict[str, Any]
DEPLOYMENTS = (("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner"))
STORAGE_FOLDER = "/var/lib/local-path"  # a node's own, see nodes.py

COREFILE = f""".:53 {{
    errors
    health :8080 {{
        lameduck 5s
    }}
    ready :8181
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
    }}
    cache 30
    loop
    reload
}}
"""
# The provisioner's helper pod runs these with VOL_DIR in its environment.
SETUP = '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n'
TEARDOWN = '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n'


def manifests(dns_service: str) -> list[Manifest]:
    """The manifests in the order in which they can be applied; `dns_service`: the address that pods ask for names."""
    return [*_coredns(dns_service), *_provisioner()]


def _coredns(dns_service: str) -> list[Manifest]:
    name, namespace = "coredns", "kube-system"
    # A Service that is called kube-dns and the label k8s-app are what others look for.
    labels = {"k8s-app": "kube-dns", "app.kubernetes.io/name": name}
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    container = {
        "name": name,
        "image": COREDNS,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"name": p["name"], "containerPort": 53, "protocol": p["protocol"]} for p in ports],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 10, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "50m", "memory": "48Mi"}, "limits": {"memory": "170Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": name,
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": name}}],
    }
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    return [
        _service_account(name, namespace),
        *_cluster_role("system:coredns", name, namespace, rules),
        _namespaced("v1", "ConfigMap", name, namespace, data={"Corefile": COREFILE}),
        _deployment(name, namespace, labels, pod),
        _namespaced(
            "v1", "Service", "kube-dns", namespace, spec={"clusterIP": dns_service, "selector": labels, "ports": ports}
        ),
    ]


def _provisioner() -> list[Manifest]:
    name, namespace = "local-path-provisioner", "local-path-storage"
    labels = {"app.kubernetes.io/name": name}
    helper = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {"containers": [{"name": "helper-pod", "image": BUSYBOX}]},
    }
    config = {"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [STORAGE_FOLDER]}]}
    data = {
        "config.json": json.dumps(config),
        "setup": SETUP,
        "teardown": TEARDOWN,
        "helperPod.yaml": json.dumps(helper),
    }
    container = {
        "name": name,
        "image": PROVISIONER,
        "args": [
            "start",
            "--config=/etc/config/config.json",
            f"--configmap-name={name}",
            f"--service-account-name={name}",
            f"--helper-image={BUSYBOX}",
        ],
        "env": [
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "CONFIG_MOUNT_PATH", "value": "/etc/config/"},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config/"}],
    }
    pod = {
        "serviceAccountName": name,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": name}}],
    }
    watch, change = ["get", "list", "watch"], ["get", "list", "watch", "create", "update", "patch", "delete"]
    rules = [
        {"apiGroups": [""], "resources": ["nodes", "persistentvolumeclaims", "configmaps", "pods"], "verbs": watch},
        {"apiGroups": [""], "resources": ["pods", "endpoints", "persistentvolumes"], "verbs": change},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": watch},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": change},
    ]
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "rancher.io/local-path",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete",
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        _service_account(name, namespace),
        *_cluster_role(name, name, namespace, rules),
        _namespaced("v1", "ConfigMap", name, namespace, data=data),
        _deployment(name, namespace, labels, pod),
        storage_class,
    ]


def _namespaced(api_version: str, kind: str, name: str, namespace: str, **fields: Any) -> Manifest:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **fields}


def _service_account(name: str, namespace: str) -> Manifest:
    return _namespaced("v1", "ServiceAccount", name, namespace)


def _cluster_role(role: str, account: str, namespace: str, rules: list[Manifest]) -> list[Manifest]:
    """A role, and its binding to a ServiceAccount."""
    api = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    ]


def _deployment(name: str, namespace: str, labels: dict[str, str], pod: Manifest) -> Manifest:
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return _namespaced("apps/v1", "Deployment", name, namespace, spec=spec)
