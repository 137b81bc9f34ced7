"""`spec.model`: which weights, under which names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo_operator.api.base import MAX_ITEMS, DataKey, ObjectName, Strict
from octavo_operator.api.uri import ModelUri


class Credentials(Strict):
    """The Secret that opens the model's source."""

    secret_name: ObjectName
    """Name of the Secret, in the service's namespace."""
    key: DataKey = "token"
    """Key within the Secret that holds the token."""


ChatTemplateName = Literal["alpaca", "chatml", "falcon", "phi-2", "vicuna"]
"""Octavo's built-in templates (`octavo_engine.text.named_templates`, to which a contract test compares it)."""


class ChatTemplate(Strict):
    """A chat template in place of the model's own: a built-in one's name, or one key of a ConfigMap."""

    name: ChatTemplateName | None = None
    """Name of a template that is built into Octavo's engine, for models that bring none; other runtimes have none."""
    config_map_name: ObjectName | None = None
    """Name of a ConfigMap in the service's namespace, with a Jinja template."""
    key: DataKey | None = None
    """Key within the ConfigMap."""

    @property
    def config_map(self) -> tuple[str, str] | None:
        """ConfigMap and key; None for a built-in template."""
        return None if self.config_map_name is None or self.key is None else (self.config_map_name, self.key)


class Model(Strict):
    """The model that is served."""

    uri: ModelUri
    """The source of the weights: hf://ORG/NAME, pvc://CLAIM/PATH, file:///PATH, or, for octavo alone, package://NAME.
    s3://, gs://, oci:// and http(s):// are refused: no runtime reads them yet.
    """
    revision: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s]+$")] | None = None
    """Branch, tag or commit of a hub's repository; the commit it resolves to is reported in the status."""
    file: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """One file among several at the source, such as a GGUF."""
    served_names: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s]+$")]],
            Field(min_length=1, max_length=MAX_ITEMS),
        ]
        | None
    ) = None
    """Names that clients may put into `model`; the first one is reported. By default the hub's name, if there is one, and the service's own."""
    credentials: Credentials | None = None
    """Secret with the token for a gated or private source."""
    chat_template: ChatTemplate | None = None
    """Chat template that replaces the model's own."""
