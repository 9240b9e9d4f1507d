"""The publish API: ``POST /api/publish`` on the node's own port, for whoever has one of its keys.

The key is asked for before a byte of the body is read. An event is published as `App.publish` does; of a
batch one after the other, until the backplane cannot be reached.
"""

from __future__ import annotations

import hmac
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import anyio

from roomwire.config import ApiSettings
from roomwire.core.api import Fault, InvalidRequest, Posted, is_key, read_request
from roomwire.core.envelope import dump
from roomwire.core.errors import EventTooLarge, HandshakeRefused, LocalError, Refusal, Unavailable
from roomwire.core.idempotency import publish_key
from roomwire.core.publication import Publication
from roomwire.core.request import RequestHead
from roomwire.transports.contract import HttpResponse, Upload

if TYPE_CHECKING:
    from roomwire.node.node import Node

__all__ = ["PATH", "PublishApi"]

PATH = "/api/publish"

_RETRY_AFTER = (("Retry-After", "5"),)
_UNAVAILABLE = "unavailable"
_NOT_TRIED = Fault(503, _UNAVAILABLE, "not tried, since an event before it could not be stored")

Result = Publication | Fault


class PublishApi:
    """Answers requests to publish.

    Args:
        node: what publishes.
        settings: the ``[api]`` section, with a key at least.
    """

    def __init__(self, node: Node, settings: ApiSettings) -> None:
        self._node = node
        self._settings = settings
        # Of one length, so that the comparison says nothing of theirs.
        self._keys = [_digest(key.get_secret_value().encode()) for key in settings.keys]
        self._pending = 0
        self._idle: anyio.Event | None = None

    def wants_body(self, head: RequestHead) -> Upload | None:
        """See `roomwire.transports.contract.Host`."""
        if head.path != PATH:
            return None
        if head.method != "POST":
            raise _refused(405, "method_not_allowed", "POST an event here", ("Allow", "POST"))
        self._authenticate(head)
        if not _is_json(head):
            raise _refused(415, "unsupported_media_type", "expected Content-Type: application/json, not encoded")
        key = head.header(b"idempotency-key")
        text = None if key is None else key.decode("latin-1")
        if text is not None and not is_key(text):
            raise _refused(400, "invalid", "Idempotency-Key is printable ASCII of 1 to 255 characters")
        refusal = self._node.at_the_door()
        if refusal is not None:
            raise HandshakeRefused(refusal)
        return Upload(self._settings.max_body, partial(self._answer, text))

    def _authenticate(self, head: RequestHead) -> None:
        given = _digest(_key_in(head))
        # Every key is compared, so that the time says nothing of which one it was.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if True not in matches:
            detail = "expected one of the server's API keys: Authorization: Bearer KEY, or X-API-Key: KEY"
            raise _refused(401, "unauthorized", detail, ("WWW-Authenticate", "Bearer"))

    async def finished(self) -> None:
        """Wait until nothing is being published."""
        while self._pending:
            self._idle = anyio.Event()
            await self._idle.wait()
        self._idle = None

    async def _answer(self, key: str | None, body: bytes) -> HttpResponse:
        self._pending += 1
        try:
            request = read_request(body, self._settings.max_batch)
            if isinstance(request, list):
                keys = [None if key is None else publish_key(key, PATH, number) for number in range(len(request))]
                return _answer_of_batch(await self._publish_all(request, keys))
            return _answer_of(await self._publish(request, key))
        except InvalidRequest as error:
            raise _refused(400, "invalid", str(error)) from None
        finally:
            self._pending -= 1
            if self._idle is not None and not self._pending:
                self._idle.set()

    async def _publish_all(self, batch: list[Posted | Fault], keys: list[str | None]) -> list[Result]:
        results: list[Result] = []
        down = False
        for posted, key in zip(batch, keys, strict=True):
            result = _NOT_TRIED if down and isinstance(posted, Posted) else await self._publish(posted, key)
            down = down or (isinstance(result, Fault) and result.error == _UNAVAILABLE)
            results.append(result)
        return results

    async def _publish(self, posted: Posted | Fault, key: str | None) -> Result:
        if isinstance(posted, Fault):
            return posted
        key = posted.key if posted.key is not None else key
        try:
            return await self._node.publish(
                posted.room,
                posted.event,
                posted.data,
                exclude=posted.exclude,
                exclude_user=posted.user,
                user=posted.user,
                history=posted.history,
                key=key,
            )
        except EventTooLarge as error:
            return Fault(413, "too_large", str(error))
        except LocalError as error:
            return Fault(400, "invalid", str(error))
        except Unavailable as error:
            state = "may have been stored" if error.stored is None else "was not stored"
            return Fault(503, _UNAVAILABLE, f"the event {state}: {_again(posted, key)}")


def _again(posted: Posted, key: str | None) -> str:
    """How to try again."""
    if not posted.history:
        return "ephemeral events have no key, so that a second try may be a second event"
    return "try again with the same key" if key is not None else "a key would tell a second try from another event"


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _key_in(head: RequestHead) -> bytes:
    """The key that a request gives; empty, which is none's, where it gives none."""
    authorization = head.header(b"authorization")
    if authorization is None:
        return head.header(b"x-api-key") or b""
    scheme, _, key = authorization.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _is_json(head: RequestHead) -> bool:
    kind, _, parameters = (head.header(b"content-type") or b"").lower().partition(b";")
    charset = parameters.replace(b'"', b"").strip()
    encoding = head.header(b"content-encoding")
    return kind.strip() == b"application/json" and charset in (b"", b"charset=utf-8") and encoding is None


def _refused(status: int, error: str, detail: str, *headers: tuple[str, str]) -> HandshakeRefused:
    return HandshakeRefused(Refusal(status, error, detail, headers))


def _said(result: Result) -> dict[str, object]:
    if isinstance(result, Fault):
        return {"error": result.error, "detail": result.detail}
    return {"id": result.id}


def _answer_of(result: Result) -> HttpResponse:
    if not isinstance(result, Fault):
        return HttpResponse(200, dump(_said(result)))
    raise _refused(result.status, result.error, result.detail, *(_RETRY_AFTER if result.status == 503 else ()))


def _answer_of_batch(results: list[Result]) -> HttpResponse:
    """With the status of all, where they have the same; else with 207, and each says its own."""
    statuses = {result.status if isinstance(result, Fault) else 200 for result in results}
    status = statuses.pop() if len(statuses) == 1 else 207
    later = any(isinstance(result, Fault) and result.status == 503 for result in results)
    return HttpResponse(status, dump([_said(result) for result in results]), headers=_RETRY_AFTER if later else ())
