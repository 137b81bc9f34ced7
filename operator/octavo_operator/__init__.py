"""The operator: one level-based reconcile of an LLMService.

    body ── api ──▶ LLMService ─┐
                                ├─ planner ─▶ Plan ─┬─ children ─▶ manifests ── cluster ─▶ API server
    cluster, description ─▶ Observed ┘              └─ local ─▶ processes (octavo up)

`controller` decides when a pass runs; `reconcile` runs it and reports the status; `runtimes` holds what differs between
engines; `verbs` prints a plan or its manifests; `metrics_api` serves autoscalers. Imports point one way (pyproject.toml).
"""
