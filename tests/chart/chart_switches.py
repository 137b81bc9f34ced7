"""Values of the chart, each switch once: what is tried against the server."""

from __future__ import annotations

from typing import Any

SWITCHES: dict[str, dict[str, Any]] = {
    "another image": {
        "image": {
            "registry": "registry.example",
            "repository": "team/operator",
            "tag": "1.2.3",
            "digest": f"sha256:{'0' * 64}",
            "pullPolicy": "Always",
            "pullSecrets": ["registry"],
        }
    },
    "engine images": {"engine": {"images": {"octavo": "mirror/engine:1", "vllm": "mirror/vllm:1"}}},
    "engine environment": {"engine": {"env": {"HF_ENDPOINT": "http://hub.example:8080", "NO_PROXY": "a, b"}}},
    "two upgrades at a time": {"upgrades": {"maxConcurrent": 2}},
    "assigned users": {"podUser": "Assigned"},
    "single namespaces": {"watchNamespaces": ["default", "kube-public"]},
    "one replica": {"replicas": 1},
    "no budget": {"podDisruptionBudget": {"enabled": False}},
    "logs as text": {"log": {"format": "text", "level": "debug"}},
    "no definition": {"crds": {"install": "Never"}},
    "no metrics API": {"metricsApi": {"enabled": False}},
    "cert-manager": {"metricsApi": {"certificate": {"certManager": True}}},
    "an issuer": {
        "metricsApi": {"certificate": {"certManager": True, "issuerRef": {"kind": "ClusterIssuer", "name": "company"}}}
    },
    "resources": {
        "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
        "metricsApi": {"resources": {"limits": {"cpu": "500m"}}},
    },
    "another ServiceAccount": {
        "serviceAccount": {"create": False, "name": "mine", "annotations": {}},
    },
    "an annotated ServiceAccount": {"serviceAccount": {"annotations": {"example.com/role": "octavo"}}},
    "no rights": {"rbac": {"create": False, "aggregate": False}},
    "network policy": {
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        }
    },
    "network policy, namespaced": {"networkPolicy": {"enabled": True}, "watchNamespaces": ["default"]},
    "monitoring": {
        "monitoring": {
            "serviceMonitor": {"enabled": True, "interval": "10s", "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": True, "labels": {"grafana_dashboard": "yes"}},
        }
    },
    "environment": {
        "extraEnv": [
            {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ]
    },
    "scheduling": {
        "podLabels": {"team": "ml"},
        "podAnnotations": {"example.com/scrape": "true"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
                }
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "octavo-operator"}},
            }
        ],
    },
}
