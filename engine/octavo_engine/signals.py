"""Signal handling in the processes of `octavo serve`, apart from the server's own drain.

The server alone decides when to end: a terminal, or `kill -- -GROUP`, sends to all processes at once. SIGUSR1 dumps
stacks. SIGUSR2 and SIGALRM, which other servers use to rotate logs or reload, are ignored.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
from collections.abc import Iterator

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STRAYS = (signal.SIGUSR2, signal.SIGALRM)


def leave_to_server() -> None:
    """Ignore in a child process what ends the server: the child ends with it."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)


def ignore_strays() -> None:
    """Ignore SIGUSR2 and SIGALRM, here and in processes started later, from their first instruction."""
    for number in STRAYS:
        signal.signal(number, signal.SIG_IGN)


def hangup_ends() -> bool:
    """Detect whether SIGHUP ends the server; nohup starts it with SIGHUP ignored, and then it stays ignored."""
    return signal.getsignal(signal.SIGHUP) != signal.SIG_IGN


def dump_stacks_at_sigusr1() -> None:
    """Write the Python stacks of all threads to stderr at SIGUSR1, even while no Python code can run.

    Not through Python's own handlers: in a native call, or a deadlock, those would wait as well.
    """
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


@contextlib.contextmanager
def sigusr1_held_back() -> Iterator[None]:
    """Hold SIGUSR1 back from processes started within, until they call `dump_stacks_at_sigusr1`.

    An exec resets a handler to the default action, which would end the process while its interpreter starts.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
