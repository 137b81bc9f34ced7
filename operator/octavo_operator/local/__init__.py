"""Runs a plan as local processes: replicas, a front for several, readiness, restarts. Without a cluster."""
