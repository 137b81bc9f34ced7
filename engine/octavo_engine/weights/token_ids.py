"""The ids of special tokens as a model's files state them. Invalid ones are dropped; none prevents a start."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def known_ids(stated: object, num_tokens: int | None, where: str, *, warn: bool = True) -> tuple[int, ...]:
    """Return the ids in `stated` (an id, a list of them, or None) below `num_tokens`, and warn of the others.

    Files express "none" as null, -1, 2**32 - 1 or the vocabulary's size. `where` names file and field.
    """
    if stated is None:
        return ()
    ids, wrong = [], []
    for each in stated if isinstance(stated, list | tuple) else (stated,):
        if type(each) is int and each >= 0 and (num_tokens is None or each < num_tokens):
            ids.append(each)
        else:
            wrong.append(each)
    if wrong and warn:
        tokens = "a token" if num_tokens is None else f"one of the {num_tokens} tokens"
        logger.warning("%s is %.60r, which does not name %s: it is ignored", where, stated, tokens)
    return tuple(ids)
