"""The test kit: control plane, fault proxy, fake kubelet, hub and index stand-ins, fake executor, models.

Imports the packages under test, never a test. `tests/`, `e2e/` and `bench/` import it; nothing that is installed does.
"""
