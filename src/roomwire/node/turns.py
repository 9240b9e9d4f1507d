"""Turns: what goes out to many members of a room, in the order in which it was decided.

A turn is a snapshot of the members and what each of them is written, encoded once for each kind. It goes
out in slices, between which the loop turns: every member is looked at again before its write, so that
who left is passed over, and who went live after the snapshot is not in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from roomwire.core.notices import Notice
from roomwire.core.positions import Position
from roomwire.core.publication import InvalidBody, Publication, read_body
from roomwire.core.tail import Entry

if TYPE_CHECKING:
    from roomwire.node.rooms import Kind, Membership
    from roomwire.protocols.contract import Message, WireProtocol
    from roomwire.transports.contract import Link

__all__ = ["WRITE_BYTES", "Events", "Telling", "Turn", "encode", "messages_of", "publications_of", "write_each"]

logger = logging.getLogger("roomwire")

WRITE_BYTES = 4096
"""Bytes that take as long to write as it takes to begin a write."""


class Turn:
    """Something on its way to the members of a moment.

    Attributes:
        members: of that moment.
        done: to how many of them it was written.
        cost: of one write, where a small one costs 1.
        moves: whether it is about the members' positions; a reset forgets it then.
        last: the last publication with a position in it.
    """

    __slots__ = ("_blocks", "cost", "done", "last", "members", "moves")

    def __init__(self, members: list[Membership], *, moves: bool = True, last: Publication | None = None) -> None:
        self.members = members
        self.moves = moves
        self.last = last
        self.done = 0
        self.cost = 1
        self._blocks: dict[Kind, Any] = {}

    def weigh(self, size: int) -> None:
        """One write of it is `size` bytes."""
        self.cost = max(self.cost, 1 + size // WRITE_BYTES)

    @property
    def publications(self) -> int:
        """Publications that each member gets."""
        return 0

    @property
    def size(self) -> int:
        """Bytes that a member gets: of the blocks of several kinds their mean; 0 where nothing was written yet."""
        size = 0
        for (_, framing), block in self._blocks.items():
            size += framing.size(block)
        return size // (len(self._blocks) or 1)

    def has_served(self, membership: Membership) -> bool:
        """Whether there is nothing left in it for a member; who is not in its snapshot has it already."""
        try:
            self.members.index(membership, self.done)
        except ValueError:
            return True
        return False

    def skip(self, membership: Membership) -> None:
        """A member has all this by another way."""
        if not self.has_served(membership):
            self.members.remove(membership)

    def write(self, batch: Sequence[Membership]) -> None:
        """Write it to those of `batch` that are live."""
        raise NotImplementedError

    def finished(self) -> None:
        """It was written to all."""


class Events(Turn):
    """The publications of one turn of the loop, joined."""

    __slots__ = ("_excluded", "_publications")

    def __init__(self, members: list[Membership], publications: list[Publication], size: int) -> None:
        super().__init__(members, last=next((p for p in reversed(publications) if p.position is not None), None))
        self.weigh(size)
        self._publications = publications
        self._excluded = {p.exclude for p in publications if p.exclude is not None}

    @property
    def publications(self) -> int:
        """See `Turn`."""
        return len(self._publications)

    def write(self, batch: Sequence[Membership]) -> None:
        """See `Turn`. The hottest loop of all."""
        excluded = self._excluded
        groups: dict[Kind, list[Link]] = {}
        kind, links = None, []
        for membership in batch:
            link = membership.link
            if link is None:
                continue
            # A client id is its user's word: only with the user does it say who is excluded.
            if excluded and membership.connection.client in excluded and self._write_partly(membership):
                continue
            if membership.kind is not kind:
                kind = membership.kind
                assert kind is not None
                links = groups.setdefault(kind, [])
            links.append(link)
        for kind, links in groups.items():
            write_each(links, self._block_for(kind), len(self._publications))

    def _block_for(self, kind: Kind) -> Any:
        block = self._blocks.get(kind)
        if block is None:
            block = self._blocks[kind] = encode(self._publications, kind)
        return block

    def _write_partly(self, membership: Membership) -> bool:
        """Write what a member is not excluded from; False, and nothing written, where that is all of it."""
        user, client = membership.connection.user, membership.connection.client
        publications = [p for p in self._publications if not p.excludes(user, client)]
        if len(publications) == len(self._publications):
            return False
        if self.last is not None:
            membership.behind = self.last.excludes(user, client)
        kind, link = membership.kind, membership.link
        if publications and link is not None and kind is not None:
            link.write(encode(publications, kind), len(publications))
        return True


class Telling(Turn):
    """The same notices for many.

    Args:
        members: whom to tell.
        notices: what.
        is_state: whether it is the room's state after a reset. Like a replay it does not count as slowness,
            else a slow client would never get past it.
        then: called when all have been told.
    """

    __slots__ = ("_notices", "_then")

    def __init__(
        self,
        members: list[Membership],
        notices: Sequence[Notice],
        *,
        is_state: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(members, moves=is_state)
        self._notices = notices
        self._then = then
        first = next((membership for membership in members if membership.link is not None), None)
        if first is not None:
            self._block_for(first)  # what it weighs has to be known before the first slice

    def write(self, batch: Sequence[Membership]) -> None:
        """See `Turn`."""
        groups: dict[Kind, list[Link]] = {}
        for membership in batch:
            link, kind = membership.link, membership.kind
            if link is not None and kind is not None and self._block_for(membership) is not None:
                groups.setdefault(kind, []).append(link)
        for kind, links in groups.items():
            write_each(links, self._blocks[kind], len(self._notices), counted=not self.moves)

    def finished(self) -> None:
        """See `Turn`."""
        if self._then is not None:
            self._then()

    def _block_for(self, membership: Membership) -> Any:
        """None where a connection's codec failed, which ended the connection."""
        kind, connection = membership.kind, membership.connection
        assert kind is not None
        block = self._blocks.get(kind)
        if block is None:
            try:
                messages = [message for notice in self._notices for message in connection._codec.send(notice)]
            except Exception as error:  # noqa: BLE001  the boundary of a connection
                connection._fail(error)
                return None
            framing = kind[1]
            block = self._blocks[kind] = framing.block(messages)
            self.weigh(framing.size(block))
        return block


def write_each(links: Sequence[Link], block: Any, messages: int, *, counted: bool = True) -> None:
    """Write a block to links of one kind: in one go, where they are `roomwire.transports.contract.SpreadingLink`."""
    spread = getattr(links[0], "spread", None)
    if spread is not None:
        spread(links, block, messages, counted=counted)
        return
    for link in links:
        link.write(block, messages, counted=counted)


def messages_of(publications: Iterable[Publication], protocol: WireProtocol) -> list[Message]:
    """The messages of publications. One that cannot be written is dropped, for it would be tried again for ever."""
    messages: list[Message] = []
    for publication in publications:
        try:
            messages.append(protocol.broadcast(publication))
        except Exception as error:
            logger.error("%s could not be written and was dropped", publication.event, exc_info=error)
    return messages


def encode(publications: Sequence[Publication], kind: Kind) -> Any:
    """Publications as one block of a kind."""
    protocol, framing = kind
    return framing.block(messages_of(publications, protocol))


def publications_of(room: str, entries: Iterable[Entry], epoch: str) -> list[Publication]:
    """The publications of a room's entries; what cannot be read was counted when it came."""
    publications: list[Publication] = []
    for entry in entries:
        with suppress(InvalidBody):
            publications.append(read_body(room, entry.body, Position(epoch, entry.offset)))
    return publications
