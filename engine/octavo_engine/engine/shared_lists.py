"""The long lists of the choices of one request, which come one after another: each is held once."""

from __future__ import annotations

import msgspec

from octavo_engine.sampling_params import SamplingParams


class SharedLists:
    """The parameters of the request before, whose lists the next one may have too."""

    def __init__(self) -> None:
        self._last: SamplingParams | None = None

    def share(self, sampling: SamplingParams) -> None:
        """Have `sampling` hold the lists of the one before, where they are equal."""
        last, self._last = self._last, sampling
        for name in ("allowed_token_ids", "bad_words", "logit_bias", "grammar") if last is not None else ():
            held = getattr(last, name)
            if held and held == getattr(sampling, name):
                msgspec.structs.force_setattr(sampling, name, held)
