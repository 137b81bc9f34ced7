"""From a manifest and what is known of the world to a Plan. Pure: no files, no network, no clock."""

from octavo_operator.planner.plan import Plan
from octavo_operator.planner.planner import plan

__all__ = ["Plan", "plan"]
