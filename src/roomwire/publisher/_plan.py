"""What a publisher needs to know: how to make its backplane, what rooms keep, and how patient it is."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from roomwire import plugins
from roomwire.backplanes.contract import Backplane, HistoryPolicy, PolicyAware
from roomwire.config import BackplaneSettings, Loaded, Settings, load
from roomwire.core.errors import ConfigError
from roomwire.core.limits import Limits
from roomwire.core.orders import ORDERS
from roomwire.core.patterns import Pattern, PatternTable
from roomwire.core.policy import RoomPolicy

__all__ = ["PATIENCE", "Plan", "fresh_key", "fresh_name"]

logger = logging.getLogger("roomwire")

PATIENCE = 5.0
"""Seconds in which a publish is tried again, as long as Redis takes to be failed over or restarted."""

_ASKED = ("backplane", "rooms", "limits")
_NOT_ASKED = tuple(section for section in Settings.model_fields if section not in _ASKED)
"""What of the configuration only a node needs: who publishes does not have to hold its secrets."""
_DEFAULT_POLICY = RoomPolicy()


def fresh_key() -> str:
    """A key that no other event has."""
    return secrets.token_hex(16)


def fresh_name() -> str:
    """A name among the nodes that no other has."""
    return f"publisher-{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a publisher is made, any number of times: again after a fork.

    Attributes:
        make: makes the backplane, not started.
        name, where: what it is called, and the setting that says so, for errors.
        rooms, policies: the room policies by pattern, as they are given and as they are looked up.
        limits: those of the nodes.
        patience: seconds in which a publish is tried again.
    """

    make: Callable[[], Backplane]
    name: str
    where: str
    rooms: Mapping[str, RoomPolicy]
    policies: PatternTable[RoomPolicy]
    limits: Limits
    patience: float

    @classmethod
    def explicit(
        cls,
        backplane: str | Callable[[], Backplane],
        options: Mapping[str, object] | None,
        rooms: Mapping[str, RoomPolicy] | None,
        limits: Limits | None,
        patience: float,
    ) -> Plan:
        """From a backplane's name and options, or from a function that makes one."""
        if isinstance(backplane, str):
            chosen = BackplaneSettings(type=backplane, options=dict(options or {}))
            settings = Settings(backplane=chosen, rooms=dict(rooms or {}), limits=limits or Limits())
            return cls.of_settings(settings, None, patience)
        if options:
            raise ConfigError("options belong to a backplane that is named; a function that makes one has them in it")
        return cls(
            backplane, "the backplane", "the publisher", rooms or {}, _table(rooms or {}), limits or Limits(), patience
        )

    @classmethod
    def of_settings(cls, settings: Settings, loaded: Loaded | None, patience: float) -> Plan:
        """From settings, as a node has them."""
        where = loaded.where("backplane", "type") if loaded is not None else "backplane.type"
        name = f'"{settings.backplane.type}"'

        def make() -> Backplane:
            return plugins.make_backplane(settings, loaded)

        return cls(make, name, where, settings.rooms, _table(settings.rooms), settings.limits, patience)

    @classmethod
    def of_config(cls, path: str | Path | None, env_file: str | Path | None, patience: float) -> Plan:
        """From a configuration file and the environment, as ``roomwire run`` reads them."""
        loaded = load(
            None if path is None else Path(path),
            environ=os.environ,
            cwd=Path.cwd(),
            env_file=None if env_file is None else Path(env_file),
            without=_NOT_ASKED,
        )
        for warning in loaded.warnings:
            logger.warning(warning)
        return cls.of_settings(loaded.settings, loaded, patience)

    def backplane(self) -> Backplane:
        """A new backplane, not started.

        Raises:
            ConfigError: it joins no processes, or its options are wrong.
            PluginError: it cannot be found or loaded.
        """
        backplane = self.make()
        if not backplane.capabilities.multi_node:
            raise ConfigError(
                f"{self.where}: {self.name} lives within one process, so that nobody would hear of what another"
                " one publishes; choose one that joins processes, for the nodes and here, or have a node publish:"
                " app.publish in its own process, or POST /api/publish ([api] keys)"
            )
        if isinstance(backplane, PolicyAware):
            policies = {"": _DEFAULT_POLICY, **self.rooms}
            backplane.configure({pattern: _history(policy) for pattern, policy in policies.items()}, self.kept)
        return backplane

    def kept(self, room: str) -> HistoryPolicy:
        """How much of a room's past is kept."""
        found = None if room == ORDERS else self.policies.match(room)
        return _history(found[0] if found is not None else _DEFAULT_POLICY)


def _history(policy: RoomPolicy) -> HistoryPolicy:
    return HistoryPolicy(policy.history_size, policy.history_ttl)


def _table(rooms: Mapping[str, RoomPolicy]) -> PatternTable[RoomPolicy]:
    table: PatternTable[RoomPolicy] = PatternTable()
    for pattern, policy in rooms.items():
        table.add(Pattern(pattern), policy)
    return table
