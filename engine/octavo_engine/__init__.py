"""The engine: an OpenAI-compatible server over a paged KV cache.

Two processes: the API process (`cli` → `server` → `text`, `core_client`) and the core process (`engine` → `core` →
`executors` → `kernels`), linked by `messages` over a socket. `weights` finds and reads models for both.
"""
