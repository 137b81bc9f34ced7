"""The setup that every verb's process needs before it runs, and its end once its reader has gone.

Standard streams that are open and can print any text, whatever the locale, and as many descriptors as the system grants.
Independent of the verbs.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import resource
import sys
from collections.abc import Callable

MOST_FILES = 1 << 20
CLOSED_PIPE = 141  # a shell's code for a program that SIGPIPE ended
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
ERRORS = "octavo-spelled-out"
# Our own signs where the terminal has none of them; any other character is escaped as in JSON.
SPELLED_OUT = {"█": "#", "…": "...", "→": "->", "×": "x", "÷": "/", "—": "-", "–": "-", "·": "-", "≤": "<=", "≥": ">="}


def run(name: str, main: Callable[[], int]) -> int:
    """Call `main` with usable streams; the exit code. `name` is what the user typed, for messages.

    A reader that has gone (`… | head`) ends the program quietly, as SIGPIPE would.
    """
    _open_standard_streams()
    _raise_descriptor_limit()
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return CLOSED_PIPE
    except OSError as error:
        if error.errno not in NO_ROOM or error.filename is not None:
            raise
        _discard_output()
        print(f"{name}: standard output can't be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1


def _open_standard_streams() -> None:
    """Give /dev/null to a stream that was closed, so that no socket or file gets its descriptor."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    codecs.register_error(ERRORS, spelled_out)
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, errors=ERRORS)
    # An ASCII locale says nothing of the bytes that come in; UTF-8 is what they are nearly always.
    ascii_only = codecs.lookup(sys.stdin.encoding or "utf-8").name == "ascii"
    _reconfigure(sys.stdin, errors="replace", **({"encoding": "utf-8"} if ascii_only else {}))


def _reconfigure(stream: object, **options: str) -> None:
    if hasattr(stream, "reconfigure"):  # a stand-in of an embedding program may lack it
        stream.reconfigure(**options)


def spelled_out(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding: ASCII in place of what the stream's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED_OUT.get(sign) or json.dumps(sign)[1:-1] for sign in lacking), error.end


def _raise_descriptor_limit() -> None:
    """Each request in flight holds a connection or two, and the usual soft limit of 1024 is for programs that select().

    The hard limit is the administrator's decision, and stays. Some container runtimes set it to a billion, through which
    programs that close every descriptor one by one, as children may, would walk.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS states a hard limit that it does not grant
            return


def _discard_output() -> None:
    """Send what is still buffered to /dev/null, also at the interpreter's exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
