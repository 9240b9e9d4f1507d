"""How a connection to a server is made: credentials, TLS, and which server it is that Sentinels call the master."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from roomwire.backplanes.redis.options import RedisOptions
from roomwire.backplanes.redis.wire import Command, Link, PlainLink, TlsLink, UnixLink
from roomwire.core.errors import Unavailable

__all__ = ["Address", "Dialer"]

Address = tuple[str, int]


class Dialer:
    """Makes connections.

    Args:
        options: the options.
        name: what the server's list of clients calls them.
    """

    def __init__(self, options: RedisOptions, name: str) -> None:
        self._options = options
        self._endpoints = options.endpoints
        username, password = options.credentials
        self._arguments: dict[str, Any] = {
            "username": username,
            "password": password,
            "db": self._endpoints.db,
            "client_name": name,
        }
        secret = options.sentinel_password
        self._sentinel_arguments: dict[str, Any] = {
            "username": options.sentinel_username,
            "password": None if secret is None else secret.get_secret_value(),
        }
        self._tls: dict[str, Any] = {}
        if self._endpoints.tls:
            self._tls = {
                "ssl_ca_certs": options.ssl_cafile,
                "ssl_certfile": options.ssl_certfile,
                "ssl_keyfile": options.ssl_keyfile,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
            }

    async def dial(self, address: Address | None) -> Link:
        """A connection to the server of a cluster, or with None to the one that the URL means.

        Raises:
            Unavailable: it cannot be made in time.
        """
        if self._endpoints.kind == "unix":
            path = self._endpoints.path
            return await self._connect(UnixLink(path=path, **self._common(self._arguments)), f"the socket {path}")
        if self._endpoints.kind == "sentinel":
            return await self._dial_master()
        return await self._dial(address or self._endpoints.addresses[0], self._arguments)

    async def _dial(self, address: Address, arguments: dict[str, Any]) -> Link:
        host, port = address
        common = self._common(arguments)
        link = TlsLink(host=host, port=port, **common, **self._tls) if self._tls else None
        return await self._connect(link or PlainLink(host=host, port=port, **common), f"{host}:{port}")

    def _common(self, arguments: dict[str, Any]) -> dict[str, Any]:
        timeout = self._options.connect_timeout
        # RESP2, since a push of RESP3 may come in the middle of replies. No retries: they are silent.
        return {
            **arguments,
            "protocol": 2,
            "driver_info": None,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }

    async def _connect(self, link: Link, where: str) -> Link:
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                await link.connect()  # type: ignore[no-untyped-call]  # redis-py has no type for it
        except BaseException as error:
            link.abort()
            await link.disconnect(nowait=True)
            if isinstance(error, RedisError | OSError):  # TimeoutError is one
                raise Unavailable(_explain(error, where), stored=False) from error
            raise
        link.socket_timeout = None  # from here on whoever reads says how long
        return link

    async def _dial_master(self) -> Link:
        addresses = list(self._endpoints.addresses)
        random.shuffle(addresses)
        failure = Unavailable("no Sentinel answers", stored=False)
        for sentinel in addresses:
            try:
                master = await self._ask(sentinel)
                link = await self._dial(master, self._arguments)
            except Unavailable as error:
                failure = error
                continue
            role = (await ask(link, self._options.connect_timeout, "ROLE"))[0]
            if role == b"master":
                return link
            # The Sentinel does not know yet, or the server does not.
            failure = Unavailable(f"the server at {master[0]}:{master[1]} is no master", stored=False)
            link.abort()
            await link.disconnect(nowait=True)
        raise failure

    async def _ask(self, sentinel: Address) -> Address:
        link = await self._dial(sentinel, self._sentinel_arguments)
        service = self._endpoints.service
        try:
            found = await ask(link, self._options.connect_timeout, "SENTINEL", "get-master-addr-by-name", service)
        finally:
            link.abort()
            await link.disconnect(nowait=True)
        if not found:
            text = f'the Sentinel at {sentinel[0]}:{sentinel[1]} knows no master "{service}": see backplane.options.url'
            raise Unavailable(text, stored=False)
        return found[0].decode(), int(found[1])


async def ask(link: Link, timeout: float, *command: bytes | str | int) -> Any:
    """One command on a connection that nobody reads yet; where it fails, the connection is closed.

    Raises:
        Unavailable: it was refused, or not answered in time.
    """
    try:
        link.push([cast("Command", command)])
        async with asyncio.timeout(timeout):
            return await link.read_response(disable_decoding=True)
    except BaseException as error:
        link.abort()
        await link.disconnect(nowait=True)
        if isinstance(error, RedisError | OSError):
            raise Unavailable(f"Redis refuses {command[0]!s}: {error}", stored=False) from error
        raise


def _explain(error: Exception, where: str) -> str:
    refused = isinstance(error, AuthenticationError | NoPermissionError)
    if refused or (isinstance(error, ResponseError) and "auth" in str(error).lower()):
        key = "backplane.options.username and backplane.options.password"
        return f"Redis at {where} refuses the credentials: see {key} ({error})"
    text = str(error) or "no answer in time"
    return f"Redis at {where} cannot be reached: is backplane.options.url right, and does it run? ({text})"
