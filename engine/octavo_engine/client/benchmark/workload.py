"""A benchmark's requests: random prompts of an exact length, and the times at which they are sent. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

Prompt = list[int] | str

# Common English words, each one token with its leading space in the vocabularies of the usual models.
WORDS = tuple(
    """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother
    area money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city community name president team minute idea body information
    back parent face others level office door health person art war history party result change morning reason
    research girl guy moment air teacher force education foot boy age policy music market sense nation plan college
    interest death experience effect use class control field development role effort rate heart drug show leader light
    voice wife police mind price report decision son view relationship town road arm difference value building action
    season society tax director position player record paper space ground form event official matter center couple
    site project activity star table need court oil situation cost industry figure street image phone data picture
    practice piece land product doctor wall patient worker news test movie north love support technology step baby
    computer type attention film tree source truth cup bank west stock blood summer south energy
    """.split()  # noqa: SIM905 - as a list it would fill two blocks
)
# Token ids that every usual vocabulary has, clear of its bytes and special tokens.
TOKEN_IDS = range(1000, 10000)


@dataclass(frozen=True, slots=True)
class Workload:
    """`input_len` tokens of each prompt are its own, after `shared_prefix_len` that all have in common."""

    num_prompts: int
    input_len: int
    shared_prefix_len: int = 0
    rate: float | None = None  # requests a second, Poisson; None: as fast as the concurrency allows
    seed: int = 0

    def prompts(self, *, as_words: bool) -> list[Prompt]:
        """Token ids, or words of about one token each."""
        draw = random.Random(f"{self.seed} prompts")
        if as_words:
            shared_words = draw.choices(WORDS, k=self.shared_prefix_len)
            return [" ".join(shared_words + draw.choices(WORDS, k=self.input_len)) for _ in range(self.num_prompts)]
        shared = draw.choices(TOKEN_IDS, k=self.shared_prefix_len)
        return [shared + draw.choices(TOKEN_IDS, k=self.input_len) for _ in range(self.num_prompts)]

    def arrivals(self) -> list[float]:
        """Seconds after the start at which each request may be sent; all 0 without a rate."""
        if self.rate is None:
            return [0.0] * self.num_prompts
        draw = random.Random(f"{self.seed} arrivals")
        moments = []
        now = 0.0
        for _ in range(self.num_prompts):
            moments.append(now)
            now += draw.expovariate(self.rate)
        return moments
