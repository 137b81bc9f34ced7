"""The key that a launch is compiled for is Triton's own, few things enter it, and a launch that was met goes at once.

The tests run in processes of their own, where kernels are compiled and not interpreted. No GPU is needed: a driver that
counts stands for one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import octavo_engine

ENGINE = Path(octavo_engine.__file__).parents[1]
PRELUDE = """
import torch
from triton.runtime.driver import driver
from octavo_engine.kernels.triton.inputs import take_in_kernel
from octavo_engine.kernels.triton.direct_launch import DirectLauncher
from octavo_engine.kernels.triton.launch import Gpu
from octavo_engine.kernels.triton.norm import norm_kernel
from octavo_engine.kernels.triton.packed_matmul import packed_kernel
from octavo_engine.kernels.triton.variants import NoGpu, Variant


def at(dtype, offset=0):
    return torch.empty(64, dtype=dtype)[offset:]


def norm_call(x=0, dim=64, dtype=torch.bfloat16, block=64):
    args = (at(dtype, x), None, at(dtype), None, at(dtype), at(dtype), dim, 1e-6, 0.0)
    return norm_kernel, args, {"LAYER": False, "HAS_RESIDUAL": False, "HAS_WEIGHT": True, "HAS_BIAS": False, "BLOCK": block, "num_warps": 1}


def take_in_call(stride=64, number=0, offset=0):
    ints = [at(torch.int32, offset) for _ in range(6)]
    return take_in_kernel, (ints[0], stride, number, *ints[1:]), {"BLOCK": 256, "num_warps": 1}


CALLS = [
    norm_call(), norm_call(), norm_call(x=1), norm_call(x=8), norm_call(dim=60), norm_call(dim=61), norm_call(dim=1),
    norm_call(dim=80), norm_call(dim=1 << 31), norm_call(dtype=torch.float16), norm_call(block=128),
    take_in_call(), take_in_call(stride=1), take_in_call(stride=63), take_in_call(number=1), take_in_call(offset=1),
]
"""


def run(code: str, folder: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`PRELUDE` and `code` where kernels are compiled, into `folder`."""
    file = folder / "launches.py"  # Triton reads the source of what it compiles
    file.write_text(PRELUDE + code)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.fspath(ENGINE), "TRITON_CACHE_DIR": os.fspath(folder / "cache")}
    result = subprocess.run([sys.executable, file], check=False, capture_output=True, text=True, env=environment)
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_two_launches_have_one_key_exactly_where_triton_has_one_for_them(tmp_path):
    """A finer key than Triton's would make the set larger than it is; a coarser one would miss code."""
    run(
        """
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import create_function_from_signature

backend = CUDABackend(GPUTarget("cuda", 90, 32))
pairs = set()
for kernel, args, options in CALLS:
    _, read_off, given = create_function_from_signature(kernel.signature, kernel.params, backend)(*args, **options)
    variant = Variant.of(kernel, args, options)
    pairs.add((variant, str((kernel.fn.__name__, read_off, given))))
    _, again, _ = create_function_from_signature(kernel.signature, kernel.params, backend)(
        *variant.arguments(), **dict(variant.options)
    )
    assert again == read_off, (variant, again, read_off)
variants, keys = zip(*pairs)
assert len(set(variants)) == len(set(keys)) == len(pairs) == 8, len(pairs)
""",
        tmp_path,
    )


COUNTING = """
import logging
from types import SimpleNamespace

launched = []
loaded = []


class Driver(NoGpu):
    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 232448},
        load_binary=lambda name, *_: loaded.append(name) or (None, f"function of {name}", 32, 0, 1024),
        unload_module=lambda module: None,
    )

    def get_current_stream(self, _device):
        return 7

    @staticmethod
    def launcher_cls(source, metadata):
        return lambda *args: launched.append(args)


driver.set_active(Driver(90))
launch = DirectLauncher(Gpu(90, 132))
"""


@pytest.mark.slow
def test_a_launch_that_was_met_passes_addresses_numbers_and_constants_in_the_kernels_order(tmp_path):
    """Triton's own search for the code runs once for all launches of the same key."""
    run(
        COUNTING
        + """
kernel, args, options = norm_call()
launch(kernel, (3,), *args, **options)
search, kernel.run = kernel.run, None  # from here on it may not be asked
other = tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in args)
launch(kernel, (5, 2), *other, **options)
launch(kernel, (0,), *other, **options)
assert loaded == ["norm_kernel"]
first, second = launched
assert first[:7] == (3, 1, 1, 7, "function of norm_kernel", first[5], None)
assert second[:3] == (5, 2, 1)
addresses = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in other]
names = [p.name for p in kernel.params]
assert list(second[9:]) == [*addresses, *(options[name] for name in names[len(args):])]
assert [*launch.prepared] == [Variant.of(kernel, args, options)]
""",
        tmp_path,
    )


@pytest.mark.slow
def test_what_was_not_prepared_is_compiled_and_named_in_the_log(tmp_path):
    result = run(
        COUNTING
        + """
logging.basicConfig(level=logging.WARNING)
launch(*(lambda kernel, args, options: (kernel, (3,), *args))(*norm_call()), **norm_call()[2])
kernel, args, options = norm_call(x=1)
launch(kernel, (3,), *args, **options)
assert len(launched) == len(loaded) == 2
""",
        tmp_path,
    )
    assert result.stderr.count("a step waits for norm_kernel(") == 1


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["padded", "every other"])
def test_a_strided_tensor_is_refused_where_kernels_are_compiled(layout, tmp_path):
    view = {"padded": "torch.empty(4, 80)[:, :64]", "every other": "torch.empty(4, 64, 2)[..., 0]"}[layout]
    result = run(
        COUNTING
        + f"""
kernel, args, options = norm_call()
launch(kernel, (3,), {view}, *args[1:], **options)
""",
        tmp_path,
        check=False,
    )
    assert "norm_kernel would read a strided tensor as if it were dense" in result.stderr


def test_a_bound_launch_passes_the_addresses_of_its_time_and_holds_no_tensor(tmp_path):
    """The code is found once; what does not begin at a multiple of 16 bytes is served by code of its own."""
    run(
        COUNTING
        + """
import weakref

kernel, args, options = norm_call()
changing = (0, 4, 5)
bound = launch.bind(kernel, args, changing, **options)
held = weakref.ref(args[4])
settled = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in args]
weight, bias = args[2:4]  # stay where they are
del args
assert held() is None and not launched and not loaded
for tensors in ([at(torch.bfloat16) for _ in changing] for _ in range(2)):
    bound((3, 2), *tensors)
    search, kernel.run = kernel.run, None  # from here on it may not be asked
    for i, x in zip(changing, tensors):
        settled[i] = x.data_ptr()
    assert launched[-1][:3] == (3, 2, 1)
    assert list(launched[-1][9:18]) == settled
    kernel.run = search
bound((0,), *tensors)
assert loaded == ["norm_kernel"] and len(launched) == 2
bound((3,), at(torch.bfloat16, 1), *tensors[1:])
assert loaded == ["norm_kernel"] * 2 and len(launched) == 3
assert [v.args[0].aligned for v in launch.prepared] == [True, False]
""",
        tmp_path,
    )


@pytest.mark.slow
def test_a_bound_launch_refuses_a_strided_tensor(tmp_path):
    result = run(
        COUNTING
        + """
kernel, args, options = norm_call()
bound = launch.bind(kernel, args, (0,), **options)
bound((3,), args[0])
bound((3,), torch.empty(4, 80, dtype=torch.bfloat16)[:, :64])
""",
        tmp_path,
        check=False,
    )
    assert "norm_kernel would read a strided tensor as if it were dense" in result.stderr


PREPARED = """
import sys
from pathlib import Path

from triton import knobs

from octavo_engine.kernels.triton.kernel_cache import prepare, use_kernel_cache

made = []  # (kernel, whether the cache had it)
knobs.compilation.listener = lambda *, src, cache_hit, **_: made.append((src.name, cache_hit))
calls = [norm_call(), norm_call(dim=61)]
variants = [Variant.of(*call) for call in calls]
said = []


def prepared(**where):
    made.clear(), said.clear()
    codes = prepare(variants, 90, 1, lambda *progress: said.append(progress), **where)
    assert set(codes) == set(variants)
    return codes
"""


@pytest.mark.slow
def test_kernels_compiled_without_a_gpu_are_those_that_its_launches_look_for(tmp_path):
    """The folder may then lie anywhere, and is only read."""
    run(
        PREPARED
        + """
if __name__ == "__main__":
    prepared(on_gpu=False)
    assert said == [(0, 2), (1, 2), (2, 2)]
    assert not [name for name, hit in made if not hit], "other processes compile"
    prepared(on_gpu=False)
    assert not said
""",
        tmp_path,
    )
    (tmp_path / "cache").rename(tmp_path / "brought along")
    run(
        COUNTING
        + PREPARED
        + f"""
import os

os.environ["OCTAVO_KERNELS"] = {os.fspath(tmp_path / "brought along")!r}
if __name__ == "__main__":
    use_kernel_cache()
    for kernel, args, options in calls:
        launch(kernel, (1,), *args, **options)
    assert made and all(hit for _, hit in made), made
    assert len(launched) == 2
    codes = prepared()
    launch.hold(codes)
    assert not said and len(launch.prepared) == 2
    kernel, args, options = norm_call(dtype=torch.float16)
    launch(kernel, (1,), *args, **options)
    assert made[-1] == ("norm_kernel", False), "nothing prepared it"
""",
        tmp_path,
    )


@pytest.mark.slow
def test_a_kernel_that_cannot_be_compiled_ends_the_start_and_is_named(tmp_path):
    result = run(
        PREPARED
        + """
from dataclasses import replace

if __name__ == "__main__":
    variants[0] = replace(variants[0], options=tuple({**dict(variants[0].options), "BLOCK": 63}.items()))
    prepared(on_gpu=False)
""",
        tmp_path,
        check=False,
    )
    assert "ExecutorError: norm_kernel(" in result.stderr
    assert "can't be compiled for compute capability 9.0" in result.stderr
