"""The policies that nodes have of rooms, compared when one starts.

A room's place is in a stream of its policy. Two nodes that think differently of a room would keep it in two
places, and neither would hear the other. So each node has a lease with its policies, and one that differs
from the others that are alive does not start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.backplanes.nats.kv import Bucket
from roomwire.backplanes.nats.subjects import Subjects
from roomwire.core.errors import ConfigError, Unavailable

__all__ = ["Agreement"]


class Agreement:
    """See the module's text.

    Args:
        bucket: where the leases are.
        subjects: the names.
        node: this node's name.
        policies: by pattern; without any there is nothing to agree on.
        lease: seconds that one outlives its last refresh.
    """

    def __init__(
        self, bucket: Bucket, subjects: Subjects, node: str, policies: Mapping[str, HistoryPolicy], lease: float
    ) -> None:
        self._bucket = bucket
        self._key = subjects.node(node)
        self._all = subjects.nodes
        self._node = node
        self._policies = {pattern: list(policy) for pattern, policy in policies.items()}
        self._lease = lease

    async def compare(self) -> None:
        """Compare with the nodes that are alive.

        Raises:
            ConfigError: one has other policies.
            Unavailable: they cannot be read.
        """
        if not self._policies:
            return
        await self.refresh()  # first, so that of two that start at once one at least sees the other
        for key, item in (await self._bucket.scan(self._all)).items():
            if item.value is None or key == self._key:
                continue
            found = self._bucket.bodies.read(_load, item.value)
            if found is None:
                continue
            node, policies, expires = found
            if policies != self._policies and not self._bucket.clock.ended(expires):
                await self.leave()
                raise ConfigError(f"rooms: {self._difference(node, policies)}")

    def _difference(self, node: str, policies: Mapping[str, object]) -> str:
        patterns = sorted({*policies, *self._policies})
        pattern = next(name for name in patterns if policies.get(name) != self._policies.get(name))
        where = f'the rooms "{pattern}"' if pattern else "rooms without a pattern"
        return (
            f"the node {node} keeps {policies.get(pattern)} (history_size, history_ttl) of {where}, and this one"
            f" {self._policies.get(pattern)}; on NATS all nodes must say the same: stop the others before you change it"
        )

    async def refresh(self) -> None:
        """Extend the lease. Raises `Unavailable`."""
        if self._policies:
            expires = self._bucket.clock.now() + self._lease
            value = json.dumps([self._node, self._policies, expires]).encode()
            await self._bucket.write(self._key, value, expires, None)

    async def leave(self) -> None:
        """End it: where that fails it ends by itself."""
        if self._policies:
            with suppress(Unavailable):
                await self._bucket.write(self._key, b"", 0.0, None)


def _load(value: bytes) -> tuple[str, Mapping[str, object], float]:
    node, policies, expires = json.loads(value)
    if not isinstance(policies, dict):
        raise TypeError("a record with other fields")
    return str(node), policies, float(expires)
