"""All listening sockets of a process: TCP, Unix, an inherited descriptor, systemd's LISTEN_FDS.

This module alone removes a Unix path, and only one that it made or that nobody answers on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from roomwire.core.errors import ConfigError
from roomwire.transports.contract import ListenOptions

__all__ = ["Listeners"]

_FIRST_FD = 3  # sd_listen_fds(3)
_NO_SUCH_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class Listeners:
    """Bound and listening sockets, and their addresses for people.

    Raises:
        ConfigError: an address is taken or cannot be bound.
    """

    def __init__(self, options: ListenOptions, environ: Mapping[str, str] = os.environ) -> None:
        self._made: tuple[Path, int] | None = None
        self.sockets = self._open(options, environ)
        scheme = "wss" if options.ssl is not None else "ws"
        self.addresses = [_describe(scheme, sock) for sock in self.sockets]
        try:
            for sock in self.sockets:
                sock.setblocking(False)
                sock.listen(options.backlog)
        except OSError as error:
            self.close()
            # Two sockets of one address can both be bound, and only the second `listen` says so.
            raise ConfigError(f"{', '.join(self.addresses)}: cannot listen there: {error.strerror}") from error

    def _open(self, options: ListenOptions, environ: Mapping[str, str]) -> list[socket.socket]:
        if options.fd is not None:
            return [_adopt(options.fd, f"server.fd = {options.fd}")]
        if options.uds is not None:
            return [self._bind_unix(Path(options.uds))]
        if environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS", "").isdigit():
            count = int(environ["LISTEN_FDS"])
            return [_adopt(fd, "LISTEN_FDS") for fd in range(_FIRST_FD, _FIRST_FD + count)]
        return _bind_tcp(options.host, options.port)

    def _bind_unix(self, path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            sock.bind(str(path))
            self._made = path, path.lstat().st_ino
        except OSError as error:
            sock.close()
            raise ConfigError(f"server.uds = {str(path)!r}: cannot listen there: {error.strerror or error}") from error
        return sock

    def close(self) -> None:
        """Close the sockets, and remove the Unix path that was made."""
        for sock in self.sockets:
            sock.close()
        if self._made is not None:
            (path, inode), self._made = self._made, None
            with contextlib.suppress(FileNotFoundError):
                # A successor may have put its own socket there.
                if path.lstat().st_ino == inode:
                    path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove a socket that its server left behind; one that is answered on is somebody's."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "a file of that name exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
                return
            except BlockingIOError:
                pass  # its queue is full, so it has a server
        raise OSError(errno.EADDRINUSE, "another server listens there")


def _adopt(fd: int, key: str) -> socket.socket:
    """A socket that another process made; the descriptor itself stays open."""
    try:
        found = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        found = False
    if not found:
        raise ConfigError(f"{key}: descriptor {fd} is no socket; check what starts this process")
    sock = socket.socket(fileno=os.dup(fd))
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise ConfigError(f"{key}: descriptor {fd} is no stream socket; WebSockets need one")
    os.set_inheritable(fd, False)  # sd_listen_fds(3): it is ours, and not our children's
    return sock


def _bind_tcp(host: str, port: int) -> list[socket.socket]:
    key = f"server.host = {host!r}, server.port = {port}"
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"{key}: the host is not known: {error}") from error
    sockets: list[socket.socket] = []
    refusal: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        # With port 0 all families get the number that the first one got.
        taken = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bound(family, (address[0], taken, *address[2:])))
        except OSError as error:
            refusal = error
            if error.errno not in _NO_SUCH_FAMILY:
                break
    # "localhost" has an IPv6 address on machines that have no IPv6; one family is enough there.
    if refusal is None or (sockets and refusal.errno in _NO_SUCH_FAMILY):
        return sockets
    for sock in sockets:
        sock.close()
    text = refusal.strerror
    raise ConfigError(f"{key}: cannot listen there: {text}; choose another port, or end what uses it") from refusal


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _describe(scheme: str, sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"
