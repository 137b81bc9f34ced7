"""The executor for GPUs and several ranks, over torch; on a CPU the twin of the native one."""
