"""The architectures, one file each: what a config and GGUF metadata mean, and where each weight is stored.

A file maps checked fields to a `SpecDraft`. It opens no files and computes no sizes; what several architectures read
alike is `HfConfig`'s and `GgufMetadata`'s. docs/extending.md lists the steps to add one.
"""

from __future__ import annotations

from octavo_models.architectures.apertus import APERTUS
from octavo_models.architectures.arcee import ARCEE
from octavo_models.architectures.baichuan import BAICHUAN
from octavo_models.architectures.bert import BERT, ROBERTA
from octavo_models.architectures.biogpt import BIOGPT
from octavo_models.architectures.bloom import BLOOM
from octavo_models.architectures.codegen import CODEGEN
from octavo_models.architectures.cohere import COHERE
from octavo_models.architectures.cohere2 import COHERE2
from octavo_models.architectures.dbrx import DBRX
from octavo_models.architectures.deepseek_v2 import DEEPSEEK_V2
from octavo_models.architectures.deepseek_v3 import DEEPSEEK_V3
from octavo_models.architectures.dots1 import DOTS1
from octavo_models.architectures.ernie4_5 import ERNIE4_5
from octavo_models.architectures.ernie4_5_moe import ERNIE4_5_MOE
from octavo_models.architectures.exaone import EXAONE
from octavo_models.architectures.exaone4 import EXAONE4
from octavo_models.architectures.falcon import FALCON
from octavo_models.architectures.flex_olmo import FLEX_OLMO
from octavo_models.architectures.gemma import GEMMA
from octavo_models.architectures.gemma2 import GEMMA2
from octavo_models.architectures.gemma3 import GEMMA3
from octavo_models.architectures.gemma3n import GEMMA3N
from octavo_models.architectures.gemma4 import GEMMA4
from octavo_models.architectures.glm import GLM
from octavo_models.architectures.glm4 import GLM4
from octavo_models.architectures.glm4_moe import GLM4_MOE
from octavo_models.architectures.glm4_moe_lite import GLM4_MOE_LITE
from octavo_models.architectures.gpt2 import GPT2
from octavo_models.architectures.gpt_bigcode import GPT_BIGCODE
from octavo_models.architectures.gpt_neo import GPT_NEO
from octavo_models.architectures.gpt_neox import GPT_NEOX
from octavo_models.architectures.gpt_neox_japanese import GPT_NEOX_JAPANESE
from octavo_models.architectures.gpt_oss import GPT_OSS
from octavo_models.architectures.gptj import GPTJ
from octavo_models.architectures.granite import GRANITE
from octavo_models.architectures.granitemoe import GRANITE_MOE
from octavo_models.architectures.gte import GTE
from octavo_models.architectures.helium import HELIUM
from octavo_models.architectures.hunyuan_v1_dense import HUNYUAN_V1_DENSE
from octavo_models.architectures.hunyuan_v1_moe import HUNYUAN_V1_MOE
from octavo_models.architectures.internlm import INTERNLM, INTERNLM3
from octavo_models.architectures.internlm2 import INTERNLM2
from octavo_models.architectures.llama import LLAMA
from octavo_models.architectures.llama4 import LLAMA4
from octavo_models.architectures.minicpm import MINICPM
from octavo_models.architectures.minicpm3 import MINICPM3
from octavo_models.architectures.minimax_m2 import MINIMAX_M2
from octavo_models.architectures.ministral import MINISTRAL
from octavo_models.architectures.ministral3 import MINISTRAL3
from octavo_models.architectures.mistral import MISTRAL
from octavo_models.architectures.mistral4 import MISTRAL4
from octavo_models.architectures.mixtral import MIXTRAL
from octavo_models.architectures.modernbert import MODERNBERT
from octavo_models.architectures.mpt import MPT
from octavo_models.architectures.multimodal import wrapping
from octavo_models.architectures.nanochat import NANOCHAT
from octavo_models.architectures.nemotron import JAIS2, NEMOTRON
from octavo_models.architectures.nomic_bert import NOMIC_BERT
from octavo_models.architectures.olmo import OLMO
from octavo_models.architectures.olmo2 import OLMO2
from octavo_models.architectures.olmo3 import OLMO3
from octavo_models.architectures.olmoe import OLMOE
from octavo_models.architectures.openai_gpt import OPENAI_GPT
from octavo_models.architectures.opt import OPT
from octavo_models.architectures.persimmon import PERSIMMON
from octavo_models.architectures.phi import PHI
from octavo_models.architectures.phi3 import PHI3
from octavo_models.architectures.phimoe import PHIMOE
from octavo_models.architectures.qwen import QWEN
from octavo_models.architectures.qwen2 import QWEN2
from octavo_models.architectures.qwen2_moe import QWEN2_MOE
from octavo_models.architectures.qwen3 import QWEN3
from octavo_models.architectures.qwen3_moe import QWEN3_MOE, QWEN3_VL_MOE_TEXT
from octavo_models.architectures.seed_oss import SEED_OSS
from octavo_models.architectures.smollm3 import SMOLLM3
from octavo_models.architectures.stablelm import STABLELM
from octavo_models.architectures.starcoder2 import STARCODER2
from octavo_models.architectures.xverse import XVERSE
from octavo_models.architectures.youtu import YOUTU

DECODERS = (
    LLAMA,
    MISTRAL,
    SMOLLM3,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA3N,
    GEMMA4,
    PHI3,
    GLM,
    GLM4,
    GRANITE,
    OLMO2,
    OLMO3,
    EXAONE4,
    XVERSE,
    QWEN,
    MINICPM,
    INTERNLM2,
    INTERNLM,
    INTERNLM3,
    EXAONE,
    BAICHUAN,
    SEED_OSS,
    HUNYUAN_V1_DENSE,
    ERNIE4_5,
    ARCEE,
    APERTUS,
    MINISTRAL,
    MINISTRAL3,
    HELIUM,
    NANOCHAT,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    QWEN3_VL_MOE_TEXT,
    GRANITE_MOE,
    PHI,
    FALCON,
    GPT_NEOX,
    OPT,
    GPT2,
    LLAMA4,
    GPT_OSS,
    HUNYUAN_V1_MOE,
    MINIMAX_M2,
    GLM4_MOE,
    DOTS1,
    ERNIE4_5_MOE,
    PHIMOE,
    FLEX_OLMO,
    OLMOE,
    GPT_BIGCODE,
    GPT_NEO,
    GPTJ,
    CODEGEN,
    BLOOM,
    MPT,
    DBRX,
    STARCODER2,
    STABLELM,
    NEMOTRON,
    JAIS2,
    OLMO,
    COHERE,
    COHERE2,
    PERSIMMON,
    BIOGPT,
    OPENAI_GPT,
    GPT_NEOX_JAPANESE,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GLM4_MOE_LITE,
    MINICPM3,
    YOUTU,
    MISTRAL4,
)
ENCODERS = (BERT, ROBERTA, MODERNBERT, NOMIC_BERT, GTE)
ALL = (*DECODERS, *ENCODERS, *wrapping({name: decoder for decoder in DECODERS for name in decoder.hf_classes}))

BY_HF_CLASS = {name: architecture for architecture in ALL for name in architecture.hf_classes}
BY_MODEL_TYPE = {architecture.model_type: architecture for architecture in ALL if architecture.model_type is not None}
BY_GGUF_NAME = {architecture.gguf_name: architecture for architecture in ALL if architecture.gguf_name is not None}
