"""A status that an older definition refuses is written without the fields that it lacks, whichever pass learns of them."""

from __future__ import annotations

from octavo_operator.errors import ApiError
from octavo_operator.reconcile.undeclared import Undeclared

WORDS = "failed to create typed patch object: .status.operator: field not declared in schema"
REFUSAL = ApiError("PATCH", "llmservices/s", 500, {"message": WORDS})
STATUS = {"operator": "octavo-system", "replicas": 1}


def test_every_status_that_was_under_way_is_written_without_the_field():
    """Workers write at the same time: what one refusal has taught does not make another's status final."""
    undeclared = Undeclared()
    assert undeclared.learn(REFUSAL, STATUS) == {"replicas": 1}
    assert undeclared.learn(REFUSAL, STATUS) == {"replicas": 1}
    assert undeclared.learn(REFUSAL, {"replicas": 1}) is None, "what is refused without the field is an error"


def test_a_definition_that_was_updated_gets_the_field_again():
    undeclared = Undeclared()
    undeclared.learn(REFUSAL, STATUS)
    undeclared.doubt()
    assert undeclared.without(STATUS) == STATUS
