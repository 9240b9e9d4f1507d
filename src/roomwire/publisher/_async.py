"""The publisher within an event loop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import anyio

from roomwire.backplanes.contract import Backplane
from roomwire.config import Loaded, Settings
from roomwire.core.closing import CloseCode, is_sendable
from roomwire.core.errors import LocalError, Unavailable
from roomwire.core.identity import is_user
from roomwire.core.limits import Limits
from roomwire.core.orders import ORDERS, Add, Disconnect, OrderToAll, Remove, write_order
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position, check_room_name
from roomwire.core.publication import Publication, compose
from roomwire.core.schema import EventSchema
from roomwire.publisher._draft import BatchFailed, Draft, PublishFailed
from roomwire.publisher._plan import PATIENCE, Plan, fresh_key, fresh_name

__all__ = ["AsyncPublisher"]

T = TypeVar("T")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between two tries, doubled from the first to the longest, with full jitter."""
_ROOMS_AT_ONCE = 32
"""Of a batch. One room's events go out one after the other."""


class _Deaf:
    """Nothing comes to a publisher: it subscribes to no room."""

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        pass

    def ephemeral(self, room: str, body: bytes) -> None:
        pass

    def interrupted(self, rooms: Collection[str] | None) -> None:
        pass

    def changed(self, room: str) -> None:
        pass

    def available(self, up: bool) -> None:
        pass

    def told(self, body: bytes) -> None:
        pass


class AsyncPublisher:
    """Publishes within an event loop; `Publisher` is its blocking form.

    Use it as an async context manager, or call `open` and `aclose`; it belongs to the loop in which it
    was opened. One for a process is enough: calls may run at the same time.

    Args:
        backplane: a backplane's name, ``"package.module:Class"``, or a function that makes one.
        options: the backplane's own options, where it is named.
        rooms: room policies by pattern: the same as the nodes have.
        limits: likewise; `max_event_size` and `idempotency_window` are used.
        patience: seconds in which a publish is tried again; with 0 it is tried once.
    """

    def __init__(
        self,
        backplane: str | Callable[[], Backplane],
        options: Mapping[str, object] | None = None,
        *,
        rooms: Mapping[str, RoomPolicy] | None = None,
        limits: Limits | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._plan = Plan.explicit(backplane, options, rooms, limits, patience)
        self._backplane: Backplane | None = None

    @classmethod
    def from_config(
        cls, path: str | Path | None = None, *, env_file: str | Path | None = None, patience: float = PATIENCE
    ) -> Self:
        """With the configuration that the nodes have.

        Of it only the backplane, the limits and the policies of rooms are read: secrets of the other
        sections need not be there.

        Args:
            path: the file; otherwise it is looked for as ``roomwire run`` does.
            env_file: instead of the ``.env`` beside it.
            patience: see the class.

        Raises:
            ConfigError: with every problem that was found.
        """
        return cls._of(Plan.of_config(path, env_file, patience))

    @classmethod
    def from_settings(cls, settings: Settings, *, loaded: Loaded | None = None, patience: float = PATIENCE) -> Self:
        """With settings that were loaded; `loaded` names their sources in errors."""
        return cls._of(Plan.of_settings(settings, loaded, patience))

    @classmethod
    def _of(cls, plan: Plan) -> Self:
        publisher = cls.__new__(cls)
        publisher._plan = plan
        publisher._backplane = None
        return publisher

    # --- its life

    async def open(self) -> None:
        """Connect to the backplane.

        Raises:
            ConfigError: the backplane joins no processes, or its options are wrong.
            PluginError: it cannot be found or loaded.
            Unavailable: it cannot be reached.
        """
        if self._backplane is not None:
            raise LocalError("the publisher is open already")
        self._backplane = backplane = self._plan.backplane()
        try:
            await backplane.start(_Deaf(), fresh_name())
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Disconnect."""
        backplane, self._backplane = self._backplane, None
        if backplane is not None:
            with anyio.CancelScope(shield=True):
                await backplane.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _opened(self) -> Backplane:
        if self._backplane is None:
            raise LocalError("the publisher is not open: use it with `async with`, or call `await publisher.open()`")
        return self._backplane

    # --- publishing

    @overload
    async def publish(
        self,
        room: str,
        event: EventSchema[None],
        data: None = None,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication: ...

    @overload
    async def publish(
        self,
        room: str,
        event: EventSchema[T],
        data: T,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication: ...

    @overload
    async def publish(
        self,
        room: str,
        event: str,
        data: object = None,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication: ...

    async def publish(
        self,
        room: str,
        event: str | EventSchema[Any],
        data: object = None,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication:
        """Publish an event to all members of a room, on all nodes; returns when it is stored.

        Where the backplane does not answer it is tried again with the same key, within the publisher's
        patience. An ephemeral event is tried once.

        Args:
            room: the room's name.
            event: the event's name, or its declaration, to which the data is held.
            data: any JSON value or pydantic model; `bytes` go in a binary frame.
            key: makes it idempotent for ``limits.idempotency_window``, also when another process tries again:
                a second publish with the key returns the first. One is made where none is given.
            exclude: the client id that does not get it, now or in a replay; with `user`, that user's client.
            user: who publishes it, if a user does. The event bears the name.
            history: False for an ephemeral event: for those live now, never stored.

        Raises:
            LocalError: no correct name, or the publisher is not open; or the event is declared for other rooms.
            InvalidData: it does not fit the declaration; with the paths.
            EventTooLarge: larger than ``limits.max_event_size``.
            PublishFailed: it was not stored, or may not have been (``stored`` is None); with the key to
                try again with.
        """
        draft = Draft(room, event, data, key, exclude, user, history)
        return await self._send(self._opened(), draft, *self._compose(draft))

    async def publish_many(self, drafts: Iterable[Draft]) -> list[Publication]:
        """Publish many events; the events of one room in their order, those of different rooms at the same time.

        Nothing is published where one of them is not correct in itself.

        Returns:
            Their publications, in order.

        Raises:
            LocalError: as `publish` does, with the number of the event, from 0.
            BatchFailed: some were not published; it has the results of all.
        """
        backplane = self._opened()
        composed = [(draft, *self._compose(draft, number)) for number, draft in enumerate(drafts)]
        results: dict[int, Publication | PublishFailed] = {}
        rooms: dict[str, list[int]] = {}
        for number, (draft, _, _) in enumerate(composed):
            rooms.setdefault(draft.room, []).append(number)
        limiter = anyio.CapacityLimiter(_ROOMS_AT_ONCE)

        async def publish_room(numbers: list[int]) -> None:
            failed: PublishFailed | None = None
            async with limiter:
                for number in numbers:
                    draft, publication, body = composed[number]
                    if failed is not None:
                        text = f"not tried, since an event of the room before it failed: {failed}"
                        results[number] = PublishFailed(text, stored=False, key=_key_of(draft))
                        continue
                    try:
                        results[number] = await self._send(backplane, draft, publication, body)
                    except PublishFailed as error:
                        results[number] = failed = error

        async with anyio.create_task_group() as tasks:
            for numbers in rooms.values():
                tasks.start_soon(publish_room, numbers)
        ordered = [results[number] for number in range(len(composed))]
        published = [result for result in ordered if isinstance(result, Publication)]
        if len(published) < len(ordered):
            raise BatchFailed(ordered)
        return published

    def _compose(self, draft: Draft, number: int | None = None) -> tuple[Publication, bytes]:
        try:
            return compose(
                draft.room,
                draft.event,
                draft.data,
                max_size=self._plan.limits.max_event_size,
                user=None if draft.user is None else _user(draft.user),
                exclude=draft.exclude,
                exclude_user=draft.user,
            )
        except (LocalError, ValueError) as error:
            if number is not None:
                error.add_note(f"in event {number} of the batch")
            raise

    async def _send(self, backplane: Backplane, draft: Draft, publication: Publication, body: bytes) -> Publication:
        key = _key_of(draft)
        if key is None:
            try:
                await backplane.publish_ephemeral(draft.room, body)
            except Unavailable as error:
                raise PublishFailed(str(error), stored=error.stored, key=None) from error
            return publication
        publication.position = await self._store(backplane, draft.room, body, key)
        return publication

    async def _store(self, backplane: Backplane, room: str, body: bytes, key: str) -> Position:
        """Publish, and try again within the publisher's patience."""
        kept, window = self._plan.kept(room), self._plan.limits.idempotency_window
        end = time.monotonic() + self._plan.patience
        pause = _FIRST_PAUSE
        stored: bool | None = False
        while True:
            try:
                return await backplane.publish(room, body, key=key, policy=kept, window=window)
            except Unavailable as error:
                # What one try may have stored no later refusal takes back.
                stored = None if error.stored is None else stored
                wait = random.uniform(0.0, pause)  # noqa: S311  spreads load, hides nothing
                if time.monotonic() + wait >= end:
                    raise PublishFailed(str(error), stored=stored, key=key) from error
            await anyio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    # --- orders to all nodes

    async def disconnect(self, user: str, *, code: int = CloseCode.REMOVED, reason: str = "") -> None:
        """Close all connections of a user, on all nodes; see `App.disconnect`.

        Raises:
            LocalError: `user` is no user's id, or the code or the reason cannot be sent.
            Unavailable: the nodes could not be told.
        """
        if not is_sendable(code):
            raise LocalError(f"{code} cannot be sent; use 4502, 4503, 4100 to 4199 or 4600 to 4699")
        await self._give(Disconnect(user=_user(user), code=int(code), reason=_reason(reason)))

    async def add(self, user: str, room: str) -> None:
        """Put all connections of a user into a room, on all nodes, without asking its policy.

        Raises:
            LocalError: that is no user's id, or no room's name.
            Unavailable: the nodes could not be told.
        """
        check_room_name(room)
        await self._give(Add(user=_user(user), room=room))

    async def remove(self, user: str, room: str, reason: str = "") -> None:
        """Take all connections of a user out of a room, on all nodes.

        Raises:
            LocalError: that is no user's id, or no room's name, or the reason cannot be sent.
            Unavailable: the nodes could not be told.
        """
        check_room_name(room)
        await self._give(Remove(user=_user(user), room=room, reason=_reason(reason)))

    async def _give(self, order: OrderToAll) -> None:
        order = order.model_copy(update={"at": time.time()})
        await self._store(self._opened(), ORDERS, write_order(order), fresh_key())


def _key_of(draft: Draft) -> str | None:
    if not draft.history:
        return None
    return draft.key if draft.key is not None else fresh_key()


def _user(user: str) -> str:
    if not is_user(user):
        raise LocalError(f"{user!r} is no user's id: 1 to 255 characters, no control characters")
    return user


def _reason(reason: str) -> str:
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise LocalError(f"{reason!r} is no reason that can be written: it has to be a text that is UTF-8") from None
    return reason
