"""Where a model's bytes come from: hub, package index, folder; safetensors and GGUF, read in parts and checked."""
