"""What one idle connection takes of a server's memory, for each shell, plain, over TLS and with permessage-deflate.

    python -m tests.tools.idle_memory

A server process of its own for each row; COUNT connections in one room, each of which has sent one message of 2 KiB and
received one; then what the process has resident more than before, divided by COUNT. A burst is four messages of 60 KB
before that, written at once. It prints the table of docs/explanation/memory.md. Linux only.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from roomwire.core.deflate import compress
from roomwire.core.frames import Opcode, build_masked_frame
from tests.server.live import make_token
from tests.server.raw import RawLink, frame, request

COUNT = 1000
ROOT = Path(__file__).parents[2]
SHELLS = (("asyncio", "callback"), ("uvloop", "callback"), ("asyncio", "portable"), ("trio", "portable"))
WAYS = ("plain", "deflate", "TLS", "TLS, after a burst")
BURST = [json.dumps({"event": "size", "data": "x" * 60_000}).encode()] * 4
MESSAGE = json.dumps({"event": "echo", "data": "x" * 2048}).encode()


@contextmanager
def serving(backend: str, shell: str, options: dict[str, object]) -> Iterator[tuple[int, int]]:
    """A server's process id and port, until the end of the block."""
    settings = {
        "server": {"port": 0, "shell": shell, **options},
        "limits": {"connections_per_user": COUNT + 1, "max_pending_per_ip": 1000},
        "rooms": {"chat:*": {"history_size": 0}},
    }
    command = [sys.executable, "-m", "tests.tools.serve_measured", backend, json.dumps(settings)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline().rpartition(":")[2])
        assert process.stdin is not None
        process.stdin.close()


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connected(port: int, context: ssl.SSLContext | None, way: str) -> RawLink:
    """A client that has sent a message and read its echo."""
    sock = socket.create_connection(("127.0.0.1", port))
    link = RawLink(sock if context is None else context.wrap_socket(sock, server_hostname="localhost"))
    deflated = way == "deflate"
    more = ["Sec-WebSocket-Extensions: permessage-deflate"] if deflated else []
    link.send(request("/ws", f"Authorization: Bearer {make_token('ann')}", *more))
    link.upgraded()
    if way.endswith("burst"):
        link.send(b"".join(frame(Opcode.TEXT, message) for message in BURST))
    if deflated:
        link.send(build_masked_frame(Opcode.TEXT, compress(MESSAGE), os.urandom(4), rsv1=True))
    else:
        link.send(frame(Opcode.TEXT, MESSAGE))
    for _ in range(2):  # the welcome and the echo
        assert link.frame() is not None
    return link


def measure(backend: str, shell: str, way: str, folder: Path) -> float:
    """KiB for one connection."""
    options: dict[str, object] = {"compression": way == "deflate"}
    context = None
    if way.startswith("TLS"):
        authority = trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
        options |= {"ssl_certfile": str(folder / "cert.pem"), "ssl_keyfile": str(folder / "cert.pem")}
        context = ssl.create_default_context()
        authority.configure_trust(context)
    with serving(backend, shell, options) as (pid, port), ExitStack() as links:
        for _ in range(20):
            connected(port, context, way).close()
        before = resident(pid)
        for _ in range(COUNT):
            links.enter_context(connected(port, context, way))
        return (resident(pid) - before) / COUNT / 1024


def main() -> None:
    print("| event loop, shell |", " | ".join(WAYS), "|")
    print("|---|" + "---|" * len(WAYS))
    with tempfile.TemporaryDirectory() as folder:
        for backend, shell in SHELLS:
            found = [measure(backend, shell, way, Path(folder)) for way in WAYS]
            print(f"| {backend}, {shell} |", " | ".join(f"{size:.1f}" for size in found), "|", flush=True)


if __name__ == "__main__":
    main()
