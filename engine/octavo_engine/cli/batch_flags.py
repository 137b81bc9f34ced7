"""The flags of OpenAI's files and batches."""

from __future__ import annotations

import argparse

from octavo_engine.cli.flag_values import at_least
from octavo_engine.config import BatchConfig


def add_batch_flags(group: argparse._ArgumentGroup) -> None:
    """Add those of files and batches to `group`; `batch_config` reads them."""
    add = group.add_argument
    default = BatchConfig()
    add(
        "--batch-dir",
        metavar="FOLDER",
        help="serve /v1/files and /v1/batches, and keep both in this folder; each replica needs its own; default: not served",
    )
    add(
        "--batch-file-bytes",
        type=at_least(1),
        default=default.file_bytes,
        metavar="BYTES",
        help="of one uploaded file; default: 209715200, 200 MiB",
    )
    add(
        "--batch-dir-bytes",
        type=at_least(1),
        default=default.folder_bytes,
        metavar="BYTES",
        help="of all files in --batch-dir, answers included; default: 10737418240, 10 GiB",
    )
    add(
        "--batch-file-seconds",
        type=at_least(1),
        default=default.file_seconds,
        metavar="SECONDS",
        help="until a file is deleted, unless it is uploaded with a shorter time; default: 2592000, 30 days",
    )


def batch_config(options: argparse.Namespace) -> BatchConfig:
    """The part of the configuration that `add_batch_flags`' make."""
    return BatchConfig(
        folder=options.batch_dir,
        file_bytes=options.batch_file_bytes,
        folder_bytes=options.batch_dir_bytes,
        file_seconds=options.batch_file_seconds,
    )
