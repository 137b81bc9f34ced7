"""The modules that low-rank adapters (LoRA) may adapt: their Hugging Face names, and the weights that they hold.

Adapters name modules as transformers does, whatever file the model is in: of a GGUF file's weights the names are those
that the same model's checkpoint has. Rows are in the order of those checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from octavo_models.architectures import BY_GGUF_NAME
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.architectures.phi3 import packed_gate_up
from octavo_models.spec import ModelSpec, Weight
from octavo_models.tensors import LAYOUTS, Rows, TensorMap, Unpermute, packed

# GGUF architectures whose checkpoints have modules of other names than Llama's.
OTHER_MODULES = frozenset(
    ("bloom", "deepseek2", "exaone", "falcon", "gpt2", "gptneox", "internlm2", "minicpm3", "mpt", "phi2", "starcoder")
) | {"starcoder2"}
PACKED_GATE_UP = frozenset(("chatglm", "glm4", "phi3"))
PACKED_QKV = frozenset(("phi3",))


@dataclass(frozen=True, slots=True)
class AdaptedRows:
    """The part of a module's output that is one weight's: all rows, or `rows` of them, to be brought into its order."""

    weight: Weight
    rows: Rows | None = None
    transform: Unpermute | None = None

    @property
    def module_rows(self) -> int:
        """The rows that the whole module has."""
        return self.weight.shape[0] if self.rows is None else self.rows.of * self.rows.groups


def adaptable(spec: ModelSpec) -> Iterator[Weight]:
    """The weights that adapters may adapt: projections of attention that is not latent, and of MLPs that are no experts."""
    for weight in spec.weights:
        layer = weight.layer
        if weight.adapter_target is None or layer is None or len(weight.sources) != 1:
            continue
        if weight.name.endswith((".q", ".k", ".v", ".o")) and spec.layers[layer].attention.latent is not None:
            continue
        yield weight


def adapter_elements(spec: ModelSpec, rank: int) -> int:
    """The number of elements of an adapter of `rank` to every weight that may be adapted."""
    return rank * sum(sum(weight.shape) for weight in adaptable(spec))


def adapted_modules(spec: ModelSpec) -> dict[str, tuple[AdaptedRows, ...]]:
    """The weights that each module holds, by the module's plain name (`model.layers.0.self_attn.q_proj`).

    Empty for a GGUF file of an architecture whose modules' names are not known.
    """
    found: dict[str, list[AdaptedRows]] = {}
    of_gguf = spec.architecture in BY_GGUF_NAME
    if of_gguf and spec.architecture in OTHER_MODULES:
        return {}
    weights = list(adaptable(spec))
    shapes = {weight.name: weight.shape for weight in weights}
    for weight in weights:
        source, transform = weight.sources[0], weight.transform
        if of_gguf:
            layer = weight.layer
            last = weight.name.rpartition(".")[2]
            of = spec.layers[layer].attention if layer is not None else None
            tensors = _tensors(
                spec.architecture,
                {n.rpartition(".")[2]: s[0] for n, s in shapes.items() if n.startswith(f"layers.{layer}.")},
            )
            place = "k" if last == "v" and of is not None and of.values_are_keys else last
            source, transform = tensors.sources(place, layer)[0], None
        assert transform is None or isinstance(transform, Unpermute), "rows of projections move, and change no more"
        module = plain_name(source.tensor.removesuffix(".weight"))
        found.setdefault(module, []).append(AdaptedRows(weight, source.rows, transform))
    return {module: tuple(parts) for module, parts in found.items()}


def plain_name(module: str) -> str:
    """The name that a decoder alone has for a module, which may be that of a model's text half."""
    for layout in reversed(LAYOUTS):
        if module.startswith(layout.inner) and layout.inner != "model.":
            return "model." + module.removeprefix(layout.inner)
    return module


def _tensors(architecture: str, rows: Mapping[str, int]) -> TensorMap:
    """The modules of a layer whose weights have so many rows, as the checkpoint of a GGUF file's model has them."""
    tensors = HF_LLAMA
    if architecture in PACKED_QKV:
        tensors = tensors.updated(packed("self_attn.qkv_proj", ("q", rows["q"]), ("k", rows["k"]), ("v", rows["v"])))
    if architecture in PACKED_GATE_UP:
        tensors = tensors.updated(packed_gate_up(rows["gate"]))
    return tensors
