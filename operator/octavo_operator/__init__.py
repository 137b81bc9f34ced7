"""The operator: one level-based reconcile of an LLMService.

`controller` decides when, `reconcile` does it: observe → `planner` → `children` → apply through `cluster` → status.
`verbs` and `local` run the same plan without a cluster; `metrics_api` serves autoscalers.
"""
