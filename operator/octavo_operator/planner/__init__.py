"""Plans a service from its manifest and what was observed. Pure: no files, no network, no clock."""

from octavo_operator.planner.plan import Plan
from octavo_operator.planner.planner import plan

__all__ = ["Plan", "plan"]
