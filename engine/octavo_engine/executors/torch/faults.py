"""The decision whether a failure is a step's or the device's, made here alone, by synchronizing the device.

A kernel's fault shows at whichever call comes next, and each library reports it in its own way: PyTorch as
AcceleratorError, Triton and cuBLAS as RuntimeError. Neither types nor messages distinguish it from one that leaves the
device well (no memory for pinned buffers or for a module, a launch that is refused). So after any error the device is
synchronized: a corrupt context refuses that for good, and the process must end. Else the error passes, and the engine
core tries the step's requests one at a time. Collectives are the exception: after an error of theirs the communicator
is of no more use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from octavo_engine.errors import DeviceLostError, OutOfMemoryError, first_line


class FaultWatch:
    """Distinguishes faults of a device from those of a step. `synchronize` waits for the device, and raises if it is lost."""

    def __init__(self, synchronize: Callable[[], object]) -> None:
        self.synchronize = synchronize

    @classmethod
    def of(cls, device: torch.device) -> FaultWatch:
        """The watch of a device; a CPU is never lost."""
        return cls((lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let a step's failure pass.

        Raises:
            DeviceLostError: it was the device's.
            OutOfMemoryError: memory ran out, whichever library says so.
        """
        try:
            yield
        except DeviceLostError:
            raise
        except dist.DistBackendError as error:
            raise DeviceLostError(f"the ranks can't exchange numbers any more: {first_line(error)}") from error
        except Exception as error:
            try:
                self.synchronize()
            except Exception:  # noqa: BLE001 — whatever it says
                raise DeviceLostError(f"the GPU's context is corrupt: {first_line(error)}") from error
            if is_out_of_memory(error):
                raise OutOfMemoryError(first_line(error)) from error
            raise


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out, the device's or the host's page-locked one: libraries say so by message alone."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
