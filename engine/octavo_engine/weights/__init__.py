"""Finds, fetches and reads a model's files: hub, package index, folder; safetensors and GGUF, read in parts and checked."""
