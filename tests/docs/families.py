"""The families of models that people serve, by use; where one is not served, why.

Order and choice are a judgement from public download reports of 2026 and from the registries of other engines: the first
eight are some 70 % of text serving, all of them more than 97 %.
"""

from __future__ import annotations

from dataclasses import dataclass

STATE = "layers with a recurrent state (Mamba, linear attention, short convolutions) are not run yet"


@dataclass(frozen=True)
class Family:
    """Names as people say them; classes of `config.json`; `unless_served` says why a class does not run."""

    names: str
    classes: tuple[str, ...]
    unless_served: str = ""
    formats: str = ""
    """The format that it is published in and that is not read."""


FAMILIES = (
    Family("Qwen 2, Qwen 2.5", ("Qwen2ForCausalLM",)),
    Family("Qwen 3", ("Qwen3ForCausalLM",)),
    Family("Llama 2, Llama 3", ("LlamaForCausalLM",)),
    Family(
        "Qwen 3.5, Qwen 3.6, Qwen 3 Next",
        ("Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM", "Qwen3NextForCausalLM"),
        STATE,
    ),
    Family("Gemma 4, Gemma 3n", ("Gemma4ForCausalLM", "Gemma3nForCausalLM")),
    Family("gpt-oss", ("GptOssForCausalLM",), formats="MXFP4"),
    Family(
        "DeepSeek V2, V3 and R1, Kimi K2", ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"), formats="FP8 in blocks"
    ),
    Family(
        "Mistral, Ministral, Mixtral",
        ("MistralForCausalLM", "MinistralForCausalLM", "Ministral3ForCausalLM", "MixtralForCausalLM"),
    ),
    Family("Qwen 3 with experts", ("Qwen3MoeForCausalLM",)),
    Family("Gemma 1 to 3", ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM")),
    Family("Phi 3, Phi 4", ("Phi3ForCausalLM",)),
    Family("GLM 4, GLM 4.5", ("GlmForCausalLM", "Glm4ForCausalLM", "Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM")),
    Family("Nemotron", ("NemotronForCausalLM", "NemotronHForCausalLM"), STATE),
    Family("Phi 2", ("PhiForCausalLM",)),
    Family("Falcon", ("FalconForCausalLM", "RWForCausalLM")),
    Family("GPT-NeoX, Pythia", ("GPTNeoXForCausalLM",)),
    Family("OPT", ("OPTForCausalLM",)),
    Family("GPT-2, StarCoder 1, GPT-J", ("GPT2LMHeadModel", "GPTBigCodeForCausalLM", "GPTJForCausalLM")),
    Family("MiniMax M2", ("MiniMaxM2ForCausalLM",), formats="FP8 in blocks"),
    Family("Llama 4", ("Llama4ForCausalLM", "Llama4ForConditionalGeneration")),
    Family("SmolLM 2 and 3", ("LlamaForCausalLM", "SmolLM3ForCausalLM")),
    Family("OLMo 1 to 3, OLMoE", ("OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "OlmoeForCausalLM")),
    Family(
        "Granite 3 and 4",
        ("GraniteForCausalLM", "GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM", "GraniteMoeHybridForCausalLM"),
        STATE,
    ),
    Family("Command R, Command A", ("CohereForCausalLM", "Cohere2ForCausalLM")),
    Family("LFM 2", ("Lfm2ForCausalLM", "Lfm2MoeForCausalLM"), STATE),
    Family("Kimi Linear", ("KimiLinearForCausalLM",), STATE),
    Family(
        "DeepSeek V3.2 and V4",
        ("DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM"),
        "attention to tokens that an indexer chooses is not run",
    ),
    Family("Yi, InternLM 2, Vicuna, TinyLlama, distilled models", ("LlamaForCausalLM", "InternLM2ForCausalLM")),
    Family("StarCoder 2, StableLM", ("Starcoder2ForCausalLM", "StableLmForCausalLM")),
    Family("MPT, BLOOM", ("MptForCausalLM", "MPTForCausalLM", "BloomForCausalLM")),
    Family(
        "EXAONE 4, Seed-OSS, Hunyuan, ERNIE 4.5, Arcee, Apertus, Solar",
        (
            "Exaone4ForCausalLM",
            "SeedOssForCausalLM",
            "HunYuanDenseV1ForCausalLM",
            "HunYuanMoEV1ForCausalLM",
            "Ernie4_5ForCausalLM",
            "Ernie4_5_MoeForCausalLM",
            "ArceeForCausalLM",
            "ApertusForCausalLM",
            "SolarOpenForCausalLM",
        ),
    ),
    Family("MiniCPM 2 and 3", ("MiniCPMForCausalLM", "MiniCPM3ForCausalLM")),
    Family(
        "Qwen 1.5 with experts, Phi 3.5 with experts, DBRX, Jamba, Falcon H1, Falcon Mamba, Zamba 2",
        (
            "Qwen2MoeForCausalLM",
            "PhimoeForCausalLM",
            "DbrxForCausalLM",
            "JambaForCausalLM",
            "FalconH1ForCausalLM",
            "FalconMambaForCausalLM",
            "Zamba2ForCausalLM",
        ),
        STATE,
    ),
    Family(
        "Baichuan, InternLM 1, Qwen 1, XVERSE, Persimmon",
        ("BaichuanForCausalLM", "InternLMForCausalLM", "QWenLMHeadModel", "XverseForCausalLM", "PersimmonForCausalLM"),
    ),
    Family(
        "BERT, RoBERTa, XLM-R, ModernBERT, NomicBERT, GTE: embedders and rerankers",
        ("BertModel", "RobertaModel", "XLMRobertaModel", "ModernBertModel", "NomicBertModel", "NewModel"),
    ),
    Family(
        "Qwen 2, 2.5 and 3 with images",
        (
            "Qwen2VLForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
        ),
    ),
    Family("Qwen 3.5 with images", ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"), STATE),
    Family("Gemma 3 and 4 with images", ("Gemma3ForConditionalGeneration", "Gemma4ForConditionalGeneration")),
    Family("Mistral 3 with images, Pixtral", ("Mistral3ForConditionalGeneration", "LlavaForConditionalGeneration")),
    Family("InternVL 3", ("InternVLChatModel", "InternVLForConditionalGeneration")),
)
