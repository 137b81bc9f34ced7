"""The ring in shared memory: one writes, several read, and any of them may sleep in between."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from octavo_engine.executors.torch import parallel_commands
from octavo_engine.executors.torch.parallel_commands import NUM_SLOTS, SLOT_BYTES, CommandRing

MANY = 50 * NUM_SLOTS


@pytest.fixture
def rings():
    """(the writer's, those of two readers), each with a mapping of its own."""
    writer = CommandRing.create(2)
    readers = [CommandRing.open(writer.path, 2, i) for i in range(2)]
    yield writer, readers
    for ring in (writer, *readers):
        ring.close()


def message(i):
    return i.to_bytes(4, "big") * (1 + 7 * i % (SLOT_BYTES // 4))


def counted(ring):
    """The ring's calls of the kernel, in a list."""
    calls, system_call = [], ring._system_call
    ring._system_call = lambda *args: (calls.append(args[2]), system_call(*args))[1]
    return calls


def test_every_reader_has_every_message_in_order(rings):
    writer, readers = rings
    with ThreadPoolExecutor(2) as pool:
        got = [pool.submit(lambda r=reader: [r.get() for _ in range(MANY)]) for reader in readers]
        for i in range(MANY):
            writer.put(message(i))
        for each in got:
            assert each.result(60) == [message(i) for i in range(MANY)]


def test_a_slot_is_not_written_before_every_reader_has_read_it(rings):
    """One reader is ahead of the other, which has read nothing: the ninth message waits for it."""
    writer, (ahead, behind) = rings
    done = threading.Event()

    def write():
        for i in range(NUM_SLOTS + 1):
            writer.put(message(i))
        done.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert [ahead.get() for _ in range(NUM_SLOTS)] == [message(i) for i in range(NUM_SLOTS)]
    assert not done.wait(0.2)
    assert behind.get() == message(0)
    assert done.wait(10)
    assert [behind.get() for _ in range(NUM_SLOTS)] == [message(i) for i in range(1, NUM_SLOTS + 1)]


def test_a_reader_that_waits_sleeps_in_the_kernel(rings):
    """One system call for all of its waiting; a message that is there already takes none."""
    writer, (reader, _) = rings
    calls = counted(reader)
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(reader.get)
        while not calls:
            pass
        writer.put(b"first")
        assert got.result(10) == b"first"
    assert len(calls) <= 2  # a second one where the first ended as the time of one call did
    calls.clear()
    writer.put(b"second")
    assert reader.get() == b"second"
    assert calls == []


def test_a_message_that_is_seen_before_it_is_whole_is_waited_for(rings):
    """A core with weakly ordered memory may show it so: the number first."""
    writer, (reader, _) = rings
    writer._words[0] = 1
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(reader.get)
        assert not got.done()
        writer.put(b"whole")
        assert got.result(10) == b"whole"


def test_a_damaged_message_is_an_error(rings, monkeypatch):
    monkeypatch.setattr(parallel_commands, "TORN_SECONDS", 0.05)
    writer, (reader, other) = rings
    writer.put(b"as it was")
    assert reader.get() == b"as it was"
    at = writer._bytes.obj.find(b"as it was")
    writer._bytes[at : at + 2] = b"is"
    with pytest.raises(RuntimeError, match="command 1 of rank 0 is damaged"):
        other.get()


def test_numbers_of_messages_may_pass_what_a_futex_holds(rings):
    """Which is the low half of them: 32 bits."""
    writer, readers = rings
    start = (1 << 32) - 2
    for ring in (writer, *readers):
        ring._count = start
    writer._freed = start + NUM_SLOTS
    writer._words[0] = start
    for at in writer._reader_counts:
        writer._words[at] = start
    for i in range(3 * NUM_SLOTS):
        writer.put(message(i))
        assert [reader.get() for reader in readers] == [message(i)] * 2
