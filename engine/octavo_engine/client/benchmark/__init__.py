"""Sends load to a server of the OpenAI API and measures it.

Stages, one way: `workload` (which prompts, when) → `load` (sends them, one `RequestOutcome` each) → `summary` (pure
statistics) → `report` (a table, JSON). Works with any server of that API.
"""
