"""The processes that run a model: core, ranks, loading and the loop of steps."""
