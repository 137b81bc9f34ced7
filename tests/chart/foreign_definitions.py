"""Definitions of others' kinds that the chart has objects of, after the types that their projects document.

Strict where the chart writes: a field that the project does not have is refused.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
ANYTHING: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def fields(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def items(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def definition(group: str, version: str, kind: str, spec: Schema) -> dict[str, Any]:
    singular = kind.lower()
    plural = f"{singular}s"
    schema = fields(("spec",), spec=spec, status=ANYTHING)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": singular},
            "versions": [
                {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    }


ENDPOINT = fields(
    port=STRING, path=STRING, interval=STRING, scrapeTimeout=STRING, scheme=STRING, honorLabels={"type": "boolean"}
)
SELECTOR = fields(matchLabels=STRINGS, matchExpressions=items(ANYTHING))
RULE = fields(
    ("expr",),
    alert=STRING,
    record=STRING,
    expr={"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
    **{
        "for": {
            "type": "string",
            "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$",
        }
    },
    labels=STRINGS,
    annotations=STRINGS,
)
ISSUER_REF = fields(("name",), group=STRING, kind=STRING, name=STRING)
PRIVATE_KEY = fields(
    algorithm={"type": "string", "enum": ["RSA", "ECDSA", "Ed25519"]},
    rotationPolicy={"type": "string", "enum": ["Never", "Always"]},
    size={"type": "integer"},
)

FOREIGN = (
    definition(
        "monitoring.coreos.com",
        "v1",
        "ServiceMonitor",
        fields(("endpoints", "selector"), endpoints=items(ENDPOINT), selector=SELECTOR, namespaceSelector=ANYTHING),
    ),
    definition(
        "monitoring.coreos.com",
        "v1",
        "PrometheusRule",
        fields(groups=items(fields(("name",), name=STRING, interval=STRING, rules=items(RULE)))),
    ),
    definition(
        "cert-manager.io",
        "v1",
        "Certificate",
        fields(
            ("issuerRef", "secretName"),
            secretName=STRING,
            dnsNames=items(STRING),
            duration=STRING,
            renewBefore=STRING,
            privateKey=PRIVATE_KEY,
            issuerRef=ISSUER_REF,
        ),
    ),
    definition("cert-manager.io", "v1", "Issuer", fields(selfSigned=fields(crlDistributionPoints=items(STRING)))),
)
