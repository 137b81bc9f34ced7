"""Looks that a process repeats for as long as it runs. One that fails is logged, and ends neither the rest nor itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from octavo_operator.errors import OperatorError

log = logging.getLogger(__name__)


async def repeat(
    look: Callable[[], Awaitable[object]], pause: Callable[[], float], what: str, *, begin_after: float = 0.0
) -> None:
    """Call `look`, pause for so many seconds, repeat. `what` names it in the log."""
    await asyncio.sleep(begin_after)
    while True:
        try:
            await look()
        except (OperatorError, OSError) as error:
            log.warning("%s: %s", what, error)
        except Exception:
            log.exception("%s: failed by a mistake of the operator's", what)
        await asyncio.sleep(pause())
