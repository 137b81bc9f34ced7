"""`spec.accelerator`, `spec.resources` and `spec.cache`: what a replica needs of a node."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from octavo_operator.api.base import MAX_ITEMS, ObjectName, ResourceName, Strict
from octavo_operator.api.quantity import Quantity


class Accelerator(Strict):
    """The kind of GPU, or `vendor: cpu`. How many follows from the parallel sizes."""

    vendor: Literal["nvidia", "cpu"] = "nvidia"
    """Vendor of the GPUs, or cpu to run without any."""
    products: Annotated[list[Annotated[str, Field(min_length=1, max_length=63)]], Field(max_length=MAX_ITEMS)] = []
    """Acceptable GPU products, as in the node label nvidia.com/gpu.product (NVIDIA-L4), which is also translated for nodes that
    only have a platform's own label, or as in such a label (nvidia-l4 on GKE, an instance type); none: any."""
    product_label: ResourceName | None = None
    """Node label that names the GPU, where it is another; products are then its values."""
    resource_name: ResourceName | None = None
    """Extended resource that counts the GPUs; by default nvidia.com/gpu."""


class Resources(Strict):
    """CPU and memory of a replica. GPUs do not belong here: they follow from the parallel sizes."""

    requests: Annotated[dict[ResourceName, Quantity], Field(max_length=MAX_ITEMS)] = {}
    """The resources that the scheduler sets aside for the container."""
    limits: Annotated[dict[ResourceName, Quantity], Field(max_length=MAX_ITEMS)] = {}
    """The resources that the container may not exceed."""


class Cache(Strict):
    """A volume that keeps the model, so that a restarted pod does not download it again."""

    size: Quantity | None = None
    """Size of the claim; by default enough for two revisions of the model, 100Gi where its size is unknown."""
    storage_class_name: ObjectName | None = None
    """Storage class; by default the cluster's."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"] | None = None
    """The claim's access mode; by default ReadWriteMany with several replicas, else ReadWriteOnce."""
    preload: bool = True
    """Download once, by a Job, before the first pod starts."""
    retain: bool = False
    """Keep the claim when the service is deleted."""
    existing_claim: ObjectName | None = None
    """Use this claim in place of a new one."""
