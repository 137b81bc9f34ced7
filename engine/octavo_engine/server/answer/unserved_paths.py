"""vLLM's paths that this server does not have, and what to do instead: the 404 says it."""

from __future__ import annotations

ELASTIC = "one engine is served, of the size that it was started with: run more replicas"
SPEECH = "no model of speech is served: send text to /v1/chat/completions"
PROFILE = "nothing is profiled over HTTP: /metrics has each request's times, and spans too with --otlp-traces-endpoint"
WEIGHTS = "weights are read at the start alone: start the server again with the new model"
DEVELOPMENT = "it is for development: start the server with --enable-development-endpoints"
ADAPTERS = "start the server with --enable-lora and --enable-runtime-lora-updates, or name adapters by --lora-modules"
CODE = "no code is run that a request names"

UNSERVED_PATHS = {
    "/scale_elastic_ep": ELASTIC,
    "/is_scaling_elastic_ep": ELASTIC,
    "/v1/audio/transcriptions": SPEECH,
    "/v1/audio/translations": SPEECH,
    "/v1/realtime": SPEECH,
    "/v2/embed": "Cohere's API is not served: use /v1/embeddings",
    "/cohere/v2/chat": "Cohere's API is not served: use /v1/chat/completions",
    "/start_profile": PROFILE,
    "/stop_profile": PROFILE,
    "/release_kv_cache_memory": "no executor gives its memory back while it runs: use /pause to hold requests",
    "/collective_rpc": CODE,
    "/update_weights": WEIGHTS,
    "/start_weight_update": WEIGHTS,
    "/finish_weight_update": WEIGHTS,
    "/init_weight_transfer_engine": WEIGHTS,
    "/abort_requests": "use /inference/v1/abort_requests, with --enable-scale-out",
    "/tokenizer_info": "start the server with --enable-tokenizer-info-endpoint",
    "/v1/load_lora_adapter": ADAPTERS,
    "/v1/unload_lora_adapter": ADAPTERS,
    "/docs": "--disable-fastapi-docs leaves the description out",
    "/redoc": "--disable-fastapi-docs leaves the description out",
    "/openapi.json": "--disable-fastapi-docs leaves the description out",
    **dict.fromkeys(
        ("/pause", "/resume", "/is_paused", "/sleep", "/wake_up", "/is_sleeping", "/server_info"), DEVELOPMENT
    ),
    **dict.fromkeys(("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"), DEVELOPMENT),
}


def not_found(method: str, path: str) -> str:
    """The sentence of a 404 for a path that no route has, root path included."""
    why = next((why for known, why in UNSERVED_PATHS.items() if path.endswith(known)), None)
    return f"this server has no {method} {path}" + ("" if why is None else f": {why}")
