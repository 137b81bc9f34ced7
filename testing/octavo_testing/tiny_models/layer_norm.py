"""Decoders with LayerNorm, learned positions or ALiBi, as transformers' config classes describe them."""

from __future__ import annotations

from typing import Any

MODELS: dict[str, tuple[str, dict[str, Any]]] = {}
