"""How the nodes of one machine wake each other: an empty datagram says "look into the file"."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

__all__ = ["Doorbell"]

_SUFFIX = ".sock"


class Doorbell:
    """A node's Unix datagram socket in a folder that all nodes of a store share.

    A ring carries nothing and may be lost: what is new is in the file, and whoever is not woken finds it at the
    next look. So a full queue is no problem (its owner has rings to answer), and nothing that others send
    can do more than wake.

    Args:
        folder: where the sockets are; it exists.

    Raises:
        OSError: the socket cannot be made, such as where its path is longer than the 107 bytes of a Unix socket's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{secrets.token_hex(4)}{_SUFFIX}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(str(self._path))
        except BaseException:
            self._socket.close()
            raise

    @property
    def in_place(self) -> bool:
        """Whether others can still find it."""
        return self._path.exists()

    def ring(self) -> None:
        """Wake the other nodes."""
        with suppress(FileNotFoundError):  # the folder was deleted, and will be made again
            for other in self._folder.glob(f"*{_SUFFIX}"):
                if other != self._path:
                    self._ring(other)

    def _ring(self, other: Path) -> None:
        try:
            self._socket.sendto(b"", str(other))
        except ConnectionRefusedError:  # its node died without a farewell
            other.unlink(missing_ok=True)
        except OSError:  # its queue is full, or it is just being removed
            pass

    def fileno(self) -> int:
        """Readable when another node has rung."""
        return self._socket.fileno()

    def silence(self) -> None:
        """Forget the rings so far."""
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        """Be gone."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
