"""The Redis backplane: several nodes, one store, Redis 6.2 and later.

`options` says where it is and `dialing` how a connection is made; a `wire` carries commands and a `link` listens;
`store` knows which server has what, `feed` what this node listens to; `streams`, `leases` and `replies` are the
contract in terms of `scripts`, under the names of `keys`.
"""

from __future__ import annotations

from roomwire.backplanes.redis.backplane import RedisBackplane
from roomwire.backplanes.redis.options import RedisOptions

__all__ = ["Options", "RedisBackplane", "RedisOptions"]

Options = RedisOptions
