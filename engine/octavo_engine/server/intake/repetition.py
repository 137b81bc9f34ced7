"""`repetition_detection` as a client sends it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from octavo_engine.sampling_params import RepetitionDetection
from octavo_engine.server.intake.limits import MAX_PATTERN_SIZE


class RepetitionFields(BaseModel):
    """vLLM's description of a repetition that ends an answer; a `max_pattern_size` of 0 asks for nothing."""

    max_pattern_size: Annotated[int, Field(ge=0, le=MAX_PATTERN_SIZE)] | None = None
    min_pattern_size: Annotated[int, Field(ge=0)] | None = None
    min_count: Annotated[int, Field(ge=0, lt=2**31)] | None = None

    @model_validator(mode="after")
    def _check(self) -> RepetitionFields:
        most, least, count = self.max_pattern_size or 0, self.min_pattern_size or 0, self.min_count or 0
        if least > most:
            raise ValueError(f"min_pattern_size {least} is more than max_pattern_size {most}")
        if most and count < 2:
            raise ValueError("min_count must be 2 or more; a max_pattern_size of 0 looks for no repetition")
        return self

    def detection(self) -> RepetitionDetection | None:
        """The same for the core; None if it asks for nothing."""
        if not self.max_pattern_size or not self.min_count:
            return None
        least = max(1, self.min_pattern_size or 0)
        return RepetitionDetection(
            max_pattern_size=self.max_pattern_size, min_pattern_size=least, min_count=self.min_count
        )
