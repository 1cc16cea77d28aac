"""chatcore plugin: of many tools, the model is told of those that it needs."""

from chatcore_planner.plugin import Planner

__all__ = ["Planner"]
