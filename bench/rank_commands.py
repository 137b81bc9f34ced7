"""Measures how long a command of rank 0 takes to reach the other ranks of a machine: shared memory in turns with the

A command is a step of 128 decodes, sent each `--pause` seconds. Prints median and 99th percentile of the time until a
rank has it, in microseconds, and the CPU time of a rank that waits. Needs no GPU and no model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import sys
import time
from typing import Any

from octavo_engine.config import ParallelConfig
from octavo_engine.core.outputs import ContinuedRequest, SchedulerOutput
from octavo_engine.executors.torch.parallel_executor import ENCODER, Step
from octavo_engine.executors.torch.parallel_group import RankGroup

WAYS = ("process group", "shared memory")
REQUESTS, CONTEXT = 128, 256


def command() -> bytes:
    """A step of decodes; every sixteenth request gets a block."""
    names = [f"cmpl-{i:032x}" for i in range(REQUESTS)]
    continued = tuple(ContinuedRequest(name, ([i],) if i % 16 == 0 else ([],), CONTEXT) for i, name in enumerate(names))
    counts = dict.fromkeys(names, 1)
    return ENCODER.encode(Step(SchedulerOutput(1, (), continued, counts, counts, frozenset(names))))


def lead(group: RankGroup, arguments: argparse.Namespace) -> None:
    """Send rounds of commands, each round another way; then leave the ranks waiting."""
    data = command()
    print(f"{len(data)} bytes, load {os.getloadavg()[0]:.1f}", flush=True)
    for i in range(arguments.rounds * len(WAYS)):
        for _ in range(arguments.commands):
            time.sleep(arguments.pause)
            stamped = time.monotonic_ns().to_bytes(8, "big") + data
            if WAYS[i % len(WAYS)] == "shared memory":
                group.send_command(stamped)
            else:
                group.broadcast(stamped)
        time.sleep(arguments.idle)


def follow(group: RankGroup, arguments: argparse.Namespace) -> dict[str, tuple[list[int], float]]:
    """The measurements by way: nanoseconds of each command, and CPU seconds of a second of waiting for one."""
    taken: dict[str, list[int]] = {way: [] for way in WAYS}
    idle: dict[str, list[float]] = {way: [] for way in WAYS}
    for i in range(arguments.rounds * len(WAYS)):
        way = WAYS[i % len(WAYS)]
        receive = group.receive_command if way == "shared memory" else lambda: group.broadcast(None)
        for number in range(arguments.commands):
            before = time.process_time()
            stamped = receive()
            taken[way].append(time.monotonic_ns() - int.from_bytes(stamped[:8], "big"))
            if number == 0 and i >= len(
                WAYS
            ):  # it has waited as long as rank 0 was idle, after a round of the other way
                idle[way].append((time.process_time() - before) / arguments.idle)
    return {way: (taken[way][arguments.commands :], statistics.median(idle[way])) for way in WAYS}


def run(rank: int, parallel: ParallelConfig, arguments: argparse.Namespace, answers: Any) -> None:
    group = RankGroup(parallel, rank, "cpu")
    if rank == 0:
        lead(group, arguments)
    else:
        answers.put(follow(group, arguments))
    group.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=3, help="rank 0 included")
    parser.add_argument("--rounds", type=int, default=4, help="of each way")
    parser.add_argument("--commands", type=int, default=500, help="a round")
    parser.add_argument("--pause", type=float, default=0.005, help="seconds between two commands")
    parser.add_argument("--idle", type=float, default=3.0, help="seconds after a round")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        parallel = ParallelConfig(tensor_parallel_size=arguments.ranks, master_port=listener.getsockname()[1])
    processes = [context.Process(target=run, args=(r, parallel, arguments, answers)) for r in range(arguments.ranks)]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes[1:]]
    for process in processes:
        process.join()
    for way in WAYS:
        taken = sorted(ns / 1e3 for ranks in found for ns in ranks[way][0])
        idle = max(ranks[way][1] for ranks in found)
        print(
            f"{way}: median {statistics.median(taken):.0f} µs, 99th percentile {taken[len(taken) * 99 // 100]:.0f} µs; "
            f"a waiting rank takes {idle:.2%} of a core"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
