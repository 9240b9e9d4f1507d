"""Presence, slots and replies: rows that end by themselves unless somebody extends them.

Functions of a `Store`, each within a transaction of the caller's. What has expired does not count, swept or not.
"""

from __future__ import annotations

from collections.abc import Sequence

from roomwire.backplanes.contract import Claim, Holder, Lost, Member, Reservation
from roomwire_sqlite.store import Store

__all__ = [
    "LEASE",
    "claim",
    "enter",
    "forget",
    "leave",
    "members",
    "refresh_members",
    "refresh_slots",
    "release",
    "remember",
    "renew",
    "reserve",
    "rooms_of",
]

LEASE = 55.0
"""Seconds that presence and slots outlive their last refresh: two refreshes of 20 s may fail."""

# --- presence


def enter(store: Store, room: str, member: Member) -> None:
    """See the contract."""
    now = store.clock()
    lease = (room, member.user, member.client)
    store.run("DELETE FROM members WHERE room = ? AND user = ? AND client = ? AND expires <= ?", *lease, now)
    known = store.one("SELECT info FROM members WHERE room = ? AND user = ? AND client = ?", *lease)
    store.run(
        "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET connection = excluded.connection, info = excluded.info, expires = excluded.expires",
        *(room, *member, now + LEASE),
    )
    if known is None or known[0] != member.info:
        store.log("changed", room)


def leave(store: Store, room: str, member: Member, grace: float) -> None:
    """See the contract."""
    lease = (room, member.user, member.client)
    mine = (*lease, member.connection)
    if grace > 0:
        expires = store.clock() + grace
        store.run(
            "UPDATE members SET expires = ? WHERE room = ? AND user = ? AND client = ? AND connection = ?",
            *(expires, *mine),
        )
        return
    store.run("DELETE FROM members WHERE room = ? AND user = ? AND client = ? AND connection = ?", *mine)
    if store.one("SELECT 1 FROM members WHERE room = ? AND user = ? AND client = ?", *lease) is None:
        store.log("changed", room)


def members(store: Store, room: str) -> list[Member]:
    """See the contract."""
    rows = store.run(
        "SELECT user, client, connection, info FROM members WHERE room = ? AND expires > ? ORDER BY rowid",
        *(room, store.clock()),
    )
    return [Member(*row) for row in rows]


def rooms_of(store: Store, user: str) -> list[str]:
    """See the contract."""
    now = store.clock()
    return [row[0] for row in store.run("SELECT DISTINCT room FROM members WHERE user = ? AND expires > ?", user, now)]


def refresh_members(store: Store, members: Sequence[tuple[str, Member]]) -> None:
    """See `Backplane.refresh`."""
    now = store.clock()
    for room, member in members:
        extended = store.run(
            "UPDATE members SET expires = ? WHERE room = ? AND user = ? AND client = ? AND connection = ?"
            " AND expires > ?",
            *(now + LEASE, room, member.user, member.client, member.connection, now),
        )
        if extended.rowcount:
            continue
        held = store.one(
            "SELECT 1 FROM members WHERE room = ? AND user = ? AND client = ? AND expires > ?",
            *(room, member.user, member.client, now),
        )
        if held is None:
            enter(store, room, member)


# --- slots


def claim(store: Store, user: str, holder: Holder, limit: int, evict: bool) -> Claim:
    """See the contract."""
    now = store.clock()
    held = _slots(store, user, now)
    previous = next((one for one in held if one.client == holder.client), None)
    if previous is None and len(held) >= limit:
        if not evict or not held:
            return Claim(False)
        previous = held[0]
    if previous is not None:
        store.run("DELETE FROM slots WHERE user = ? AND client = ?", user, previous.client)
    store.run("INSERT INTO slots VALUES (?, ?, ?, ?, ?)", user, *holder, now + LEASE)
    displaced = previous is not None and previous.connection != holder.connection
    return Claim(True, previous if displaced else None)


def _slots(store: Store, user: str, now: float) -> list[Holder]:
    """The slots of a user, oldest first, after those that have expired are gone."""
    store.run("DELETE FROM slots WHERE user = ? AND expires <= ?", user, now)
    rows = store.run("SELECT client, connection, node FROM slots WHERE user = ? ORDER BY rowid", user)
    return [Holder(*row) for row in rows]


def release(store: Store, user: str, holder: Holder) -> None:
    """See the contract."""
    mine = (user, holder.client, holder.connection)
    store.run("DELETE FROM slots WHERE user = ? AND client = ? AND connection = ?", *mine)


def refresh_slots(store: Store, slots: Sequence[tuple[str, Holder]], limit: int | None) -> list[Lost]:
    """See `Backplane.refresh`."""
    now = store.clock()
    lost = []
    for user, holder in slots:
        extended = store.run(
            "UPDATE slots SET expires = ? WHERE user = ? AND client = ? AND connection = ? AND expires > ?",
            *(now + LEASE, user, holder.client, holder.connection, now),
        )
        if extended.rowcount:
            continue
        held = _slots(store, user, now)
        replaced = any(one.client == holder.client for one in held)
        if replaced or (limit is not None and len(held) >= limit):
            lost.append(Lost(user, holder, replaced))
        else:
            store.run("INSERT INTO slots VALUES (?, ?, ?, ?, ?)", user, *holder, now + LEASE)
    return lost


# --- replies


def reserve(store: Store, key: str, fingerprint: str, lease: float) -> Reservation:
    """See the contract."""
    now = store.clock()
    known = store.one("SELECT fingerprint, value FROM replies WHERE key = ? AND expires > ?", key, now)
    if known is not None:
        first, value = known
        return Reservation("pending", first) if value is None else Reservation("done", first, value)
    store.run("INSERT OR REPLACE INTO replies VALUES (?, ?, NULL, ?)", key, fingerprint, now + lease)
    return Reservation("new", fingerprint)


def renew(store: Store, key: str, lease: float) -> None:
    """See the contract."""
    now = store.clock()
    store.run("UPDATE replies SET expires = ? WHERE key = ? AND value IS NULL AND expires > ?", now + lease, key, now)


def remember(store: Store, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
    """See the contract."""
    store.run("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", key, fingerprint, value, store.clock() + ttl)


def forget(store: Store, key: str) -> None:
    """See the contract."""
    store.run("DELETE FROM replies WHERE key = ? AND value IS NULL", key)
