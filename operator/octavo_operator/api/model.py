"""`spec.model`: which weights, under which names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from octavo_operator.api.base import MAX_ITEMS, DataKey, ObjectName, Strict
from octavo_operator.api.uri import ModelUri


class Credentials(Strict):
    """The Secret that opens the model's source."""

    secret_name: ObjectName
    """Name of the Secret, in the service's namespace."""
    key: DataKey = "token"
    """Key within the Secret that holds the token."""


class ConfigMapKey(Strict):
    """One key of a ConfigMap in the service's namespace."""

    config_map_name: ObjectName
    """Name of the ConfigMap."""
    key: DataKey
    """Key within the ConfigMap."""


class Model(Strict):
    """The model that is served."""

    uri: ModelUri
    """Where the weights come from: hf://ORG/NAME, pvc://CLAIM/PATH, file:///PATH, or, for octavo alone, package://NAME. s3://, gs://, oci:// and http(s):// are refused: no runtime reads them yet."""
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
    chat_template: ConfigMapKey | None = None
    """ConfigMap with a Jinja chat template that replaces the model's own."""
