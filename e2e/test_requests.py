"""The sum over the whole suite."""

from __future__ import annotations

AT_LEAST = 20_000


def test_of_all_requests_none_has_failed(ledger, record_property):
    """0 failed of at least 20,000 requests, over all of the suite"""
    record_property("requests", ledger.requests)
    record_property("failed", len(ledger.failures))
    assert ledger.failures == []
    assert ledger.requests >= AT_LEAST
