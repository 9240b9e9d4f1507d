"""The ring against real sockets: what each took, whatever the others did."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import resource
import runpy
import socket
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomwire.transports.anyio import ring as module
from roomwire.transports.anyio.ring import LARGEST, SendRing


def ring_of(entries: int) -> SendRing:
    try:
        return SendRing(entries)
    except OSError as error:
        pytest.skip(f"the kernel grants no ring: {error}")


@pytest.fixture
def ring() -> Iterator[SendRing]:
    """A small one, so that it begins anew often."""
    found = ring_of(4)
    yield found
    found.close()


class Pair:
    """A socket that is written to, and its peer."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        for sock in (self.ours, self.theirs):
            sock.setblocking(False)

    def read(self) -> bytes:
        data = b""
        try:
            while piece := self.theirs.recv(1 << 20):
                data += piece
        except BlockingIOError:
            pass
        return data


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [Pair() for _ in range(11)]
    yield made
    for pair in made:
        pair.ours.close()
        pair.theirs.close()


def descriptors(pairs: list[Pair]) -> list[int]:
    return [pair.ours.fileno() for pair in pairs]


def test_all_get_the_same_bytes_in_order(ring: SendRing, pairs: list[Pair]) -> None:
    pieces = [os.urandom(size) for size in (1, 100, 0, 3000, 7)]
    for piece in pieces:
        assert ring.send(descriptors(pairs), piece) == [len(piece)] * len(pairs)
    assert [pair.read() for pair in pairs] == [b"".join(pieces)] * len(pairs)


def test_of_none(ring: SendRing) -> None:
    assert ring.send([], b"nothing") == []


def test_each_result_is_its_own(ring: SendRing, pairs: list[Pair]) -> None:
    full, gone, closed = pairs[1], pairs[4], pairs[9]
    full.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    gone.theirs.close()
    numbers = descriptors(pairs)
    closed.ours.close()
    data = bytes(range(256)) * 256
    taken = ring.send(numbers, data)
    assert 0 < taken[1] < len(data)
    expected = [len(data)] * len(pairs)
    expected[1], expected[4], expected[9] = taken[1], -errno.EPIPE, -errno.EBADF
    assert taken == expected
    assert full.read() == data[: taken[1]]
    assert pairs[2].read() == data
    # Who takes nothing is not waited for.
    while (taken := ring.send(numbers[:1], data)) == [len(data)]:
        pass
    while taken != [-errno.EAGAIN]:
        taken = ring.send(numbers[:1], data)
    assert set(pairs[0].read()) == set(range(256))


def test_random_sizes_on_a_full_size_ring() -> None:
    """Every byte that was taken arrives, and no other."""
    source = random.Random(7)
    ring = ring_of(1024)
    pairs = [Pair() for _ in range(300)]
    wanted = [bytearray() for _ in pairs]
    found = [bytearray() for _ in pairs]
    for _ in range(60):
        data = source.randbytes(source.choice([1, 200, 5000, LARGEST]))
        chosen = source.sample(range(len(pairs)), source.randrange(1, len(pairs)))
        taken = ring.send([pairs[index].ours.fileno() for index in chosen], data)
        assert len(taken) == len(chosen)
        for index, count in zip(chosen, taken, strict=True):
            assert count > 0 or count == -errno.EAGAIN
            wanted[index] += data[: max(0, count)]
        for index in source.sample(range(len(pairs)), 100):
            found[index] += pairs[index].read()
    for index, pair in enumerate(pairs):
        found[index] += pair.read()
        pair.ours.close()
        pair.theirs.close()
    ring.close()
    assert found == wanted


def test_sends_that_the_kernel_did_not_begin_are_as_if_nothing_was_taken(ring: SendRing, pairs: list[Pair]) -> None:
    """It may run out of memory in the middle of a list."""
    call = ring._call

    def with_two(number: int, fd: int, count: int, wanted: int, *rest: int) -> int:
        return call(number, fd, min(count, 2), min(wanted, 2), *rest)

    ring._call = with_two
    assert ring.send(descriptors(pairs[:3]), b"some") == [4, 4, -errno.EAGAIN]
    ring._call = call
    assert ring.send(descriptors(pairs[:4]), b"more") == [4, 4, 4, 4]
    assert [pair.read() for pair in pairs[:4]] == [b"somemore", b"somemore", b"more", b"more"]


def test_results_may_come_in_another_order_than_the_sends_went(ring: SendRing, pairs: list[Pair]) -> None:
    call = ring._call

    def turn_round(*arguments: int) -> int:
        count = call(*arguments)
        results = ring._signed[ring._first_result :][: 4 * 4]
        words = results.tolist()
        for number in range(4):
            results[number * 4 : number * 4 + 4] = array("i", words[12 - number * 4 : 16 - number * 4])
        return count

    ring._call = turn_round
    pairs[1].theirs.close()
    assert ring.send(descriptors(pairs[:4]), b"some") == [4, -errno.EPIPE, 4, 4]


def test_a_signal_may_come_while_results_are_awaited(ring: SendRing, pairs: list[Pair]) -> None:
    call, awaited = ring._call, []

    def be_interrupted(number: int, fd: int, count: int, *rest: int) -> int:
        if count:
            result = call(number, fd, count, *rest)
            awaited.append(ring._ring[ring._result_head])
            ring._ring[ring._result_head] = ring._ring[ring._result_tail]
            return result
        ring._ring[ring._result_head] = awaited[-1]
        ctypes.set_errno(errno.EINTR)
        return -1

    ring._call = be_interrupted
    assert ring.send(descriptors(pairs), b"some") == [4] * len(pairs)
    assert len(awaited) == 3


def test_a_kernel_that_does_not_answer_for_what_it_began_is_an_error(ring: SendRing, pairs: list[Pair]) -> None:
    call = ring._call

    def lose_the_results(number: int, fd: int, count: int, *rest: int) -> int:
        if count:
            result = call(number, fd, count, *rest)
            ring._ring[ring._result_head] = ring._ring[ring._result_tail]
            return result
        ctypes.set_errno(errno.EBADR)
        return -1

    ring._call = lose_the_results
    with pytest.raises(OSError, match=os.strerror(errno.EBADR)):
        ring.send(descriptors(pairs[:3]), b"some")


@pytest.mark.parametrize("refused", [errno.EPERM, errno.ENOSYS, errno.ENOMEM])
def test_a_kernel_that_grants_none(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    def refuse(*arguments: int) -> int:
        ctypes.set_errno(refused)
        return -1

    monkeypatch.setattr(module, "_system_call", lambda: refuse)
    with pytest.raises(OSError, match=os.strerror(refused)) as caught:
        SendRing()
    assert caught.value.errno == refused


def test_another_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        SendRing()


@pytest.mark.parametrize("left", [0, 1])
def test_a_process_without_descriptors_gets_none_and_loses_none(left: int) -> None:
    gc.collect()  # else what other tests left could give a descriptor back meanwhile
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            SendRing()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    again = os.dup(0)
    os.close(again)
    assert again == lowest


def test_a_python_without_ctypes_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    without = runpy.run_path(module.__file__)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        without["SendRing"]()


@pytest.mark.parametrize("call", [module._SETUP, module._ENTER])
def test_a_seccomp_profile_that_refuses_one_of_the_calls_is_as_good_as_no_ring(call: int) -> None:
    ring_of(4).close()
    asked = [sys.executable, "-m", "tests.tools.refused_ring", str(call)]
    assert subprocess.run(asked, capture_output=True, check=True, text=True).stdout == "EPERM\n"


def test_one_that_is_given_back_leaves_no_descriptor_and_no_mapping() -> None:
    ring_of(64).close()
    gc.collect()

    def held() -> tuple[int, int]:
        here = Path("/proc/self")
        mapped = sum("io_uring" in line for line in (here / "maps").read_text().splitlines())
        return len(list((here / "fd").iterdir())), mapped

    before = held()
    rings = [ring_of(64) for _ in range(20)]
    for ring in rings:
        ring.close()
    assert held() == before
    with pytest.raises(ValueError, match="released"):
        rings[0].send([1], b"more")


def test_the_counters_begin_anew_after_32_bits(ring: SendRing, pairs: list[Pair]) -> None:
    """The kernel's own would take minutes to get there: here its part is played, by the rules of the header."""
    memory = ring._ring
    counters = (ring._send_head, ring._send_tail, ring._result_head, ring._result_tail)
    for counter in counters:
        memory[counter] = 2**32 - 6

    def play(number: int, fd: int, count: int, *rest: int) -> int:
        for _ in range(min(count, 3)):
            send = (memory[ring._send_head] % 4) * 16
            target, size = ring._sends[send + 1], ring._sends[send + 6]
            result = ring._first_result + memory[ring._result_tail] % ring._results * 4
            memory[result] = ring._sends[send + 8]
            ring._signed[result + 2] = os.write(target, ring._buffer[:size])
            for counter in (ring._send_head, ring._result_tail):
                memory[counter] = (memory[counter] + 1) % 2**32
        return count

    ring._call = play
    # Slots 2 and 3, all four of which the last was not begun, slot 3 once more and so on.
    expected = [6, 6, 6, 6, 6, -errno.EAGAIN, 6, 6, 6, 6, -errno.EAGAIN]
    assert ring.send(descriptors(pairs), b"across") == expected
    assert [memory[counter] for counter in counters] == [3] * 4
    assert [pair.read() for pair in pairs] == [b"across" if taken > 0 else b"" for taken in expected]
