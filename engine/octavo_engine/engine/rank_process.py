"""The process of a rank beside rank 0, whose process is the engine core's. It does what rank 0 does.

Started by `core_client.core_handle` as `python -m octavo_engine.engine.rank_process PARENT`, with a `RankBoot` as msgpack on its
standard input. An error is written to the pipe that it was given; it has no socket.
"""

from __future__ import annotations

import os
import sys
import traceback

import msgspec

from octavo_engine import signals
from octavo_engine.config import EngineConfig, encode_files
from octavo_engine.engine.core_process import kill_with_parent, read_boot
from octavo_engine.engine.loader import find_files, read_model
from octavo_engine.errors import OctavoError, described
from octavo_engine.executors import require_device, require_torch
from octavo_models.errors import ModelError


class RankBoot(msgspec.Struct, frozen=True):
    """The arguments of a rank process."""

    config: EngineConfig
    rank: int
    words: int  # the descriptor of the pipe for its last words


def run(boot: RankBoot) -> None:
    """Join the other ranks and follow rank 0, until that ends in good order.

    Raises:
        OctavoError, ModelError: this rank can't go on.
    """
    require_device(boot.config)
    require_torch()
    from octavo_engine.executors.torch.parallel_executor import files_key, files_of, follow  # noqa: PLC0415 — torch
    from octavo_engine.executors.torch.parallel_group import RankGroup  # noqa: PLC0415

    config = boot.config
    first_here = boot.rank == config.parallel.ranks_here.start
    files = find_files(config)[0] if first_here else None
    group = RankGroup(config.parallel, boot.rank, config.executor.device)
    if files is None:
        files = files_of(config, group)
    else:
        group.publish(files_key(config), encode_files(files))
    follow(config, read_model(config, files), files, group)


def main() -> int:
    """Be a rank of the process `PARENT`."""
    signals.leave_to_server()
    signals.dump_stacks_at_sigusr1()
    kill_with_parent(int(sys.argv[1]))
    boot = msgspec.msgpack.decode(read_boot(sys.stdin.buffer), type=RankBoot)
    try:
        run(boot)
    except (OctavoError, ModelError) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 — a bug: the person gets a sentence, the log the traceback
        traceback.print_exc()
        reason = described(error)
    else:
        return 0
    os.write(boot.words, reason.encode())
    return 1


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())  # at once: libraries that unload in the wrong order have nothing to add
