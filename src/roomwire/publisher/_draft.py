"""An event that is to be published, and what is said where it was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from roomwire.core.errors import Unavailable
from roomwire.core.publication import Publication
from roomwire.core.schema import EventSchema

__all__ = ["BatchFailed", "Draft", "PublishFailed"]


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that is to be published: what `AsyncPublisher.publish` takes, for `AsyncPublisher.publish_many`.

    Attributes:
        room: the room's name.
        event: the event's name, or its declaration, to which the data is held.
        data: any JSON value or pydantic model; `bytes` go in a binary frame.
        key: makes it idempotent, also when another process tries again; one is made where none is given.
        exclude: the client id that does not get it; with `user`, that user's client.
        user: who publishes it, if a user does. The event bears the name.
        history: False for an ephemeral event: for those live now, never stored.
    """

    room: str
    event: str | EventSchema[Any]
    data: object = None
    key: str | None = None
    exclude: str | None = None
    user: str | None = None
    history: bool = True


class PublishFailed(Unavailable):
    """An event was not published within the publisher's patience, or it is not known whether it was.

    Attributes:
        stored: False where it certainly was not, None where that is unknown.
        key: publish it again with this key, and it takes effect once. None for an ephemeral event.
    """

    def __init__(self, message: str, *, stored: bool | None, key: str | None) -> None:
        super().__init__(message, stored=stored)
        self.key = key


class BatchFailed(Unavailable):
    """Some of the events of `AsyncPublisher.publish_many` were not published.

    Attributes:
        results: for each event, in order, its publication or its error. Of a room nothing is
            published behind an event that failed.
    """

    def __init__(self, results: Sequence[Publication | PublishFailed]) -> None:
        failures = [result for result in results if isinstance(result, PublishFailed)]
        stored = None if any(failure.stored is None for failure in failures) else False
        super().__init__(f"{len(failures)} of {len(results)} events were not published: {failures[0]}", stored=stored)
        self.results = list(results)
