"""App and Router: what the user declares, whole or in parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from roomwire.acting import Member
from roomwire.core.errors import DeclarationError, EventError
from roomwire.core.injection import Plan
from roomwire.core.patterns import PatternTable, PatternTie
from roomwire.core.routing import Handler, Hook, add_to
from roomwire.core.routing import Router as Routes
from roomwire.core.schema import EventTable
from roomwire.core.signatures import name_of
from roomwire.declaring import Declaration, Declarations, ErrorHandler, check_shared, conflict
from roomwire.node import journal

if TYPE_CHECKING:
    from roomwire.asgi import AsgiApp

__all__ = ["App", "Lifespan", "Member", "Overrides", "Router"]

Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]
AnyFunction = Callable[..., Any]


class Router(Declarations):
    """A part of an application's declarations, in a module of its own: `App.include` takes it in.

    It has an application's decorators, and its methods that act.

    Args:
        event_prefix: stands before the name of every event, such as ``"chat."``.
        room_prefix: stands before every room pattern, such as ``"chat:"``.
    """

    def __init__(self, *, event_prefix: str = "", room_prefix: str = "") -> None:
        self._event_prefix = event_prefix
        self._room_prefix = room_prefix
        self._declared: list[Declaration] = []
        self._apps: list[App] = []
        self._place = _caller()

    def __repr__(self) -> str:
        return f"<Router of {self._place}>"

    def _add(self, declared: Declaration) -> None:
        self._declared.append(declared)
        for app in self._apps:  # what is declared after it was included counts too
            app._add(declared.copy())


class App(Declarations):
    """The declarations of an application.

    Args:
        lifespan: an async context manager, entered before the first connection and left after the last. Its end is
            cancelled where it takes longer than what is left of ``server.drain_timeout``.

    Attributes:
        overrides: functions that are called in place of dependencies, for tests:
            ``app.overrides[get_session] = fake``.
    """

    def __init__(self, *, lifespan: Lifespan | None = None) -> None:
        self.lifespan = lifespan
        self.router = Routes()
        self.rooms: PatternTable[Hook] = PatternTable()
        self.snapshots: PatternTable[Hook] = PatternTable()
        self.events = EventTable()
        self.connect_hook: Hook | None = None
        self.disconnect_hook: Hook | None = None
        self.overrides = Overrides(self)
        self._declared: list[Declaration] = []
        self._included: dict[Router, str] = {}
        self._errors: dict[type[Exception], ErrorHandler] = {}
        self._asgi: AsgiApp | None = None

    @property
    def asgi(self) -> AsgiApp:
        """This application as an ASGI application; see `roomwire.asgi`."""
        if self._asgi is None:
            from roomwire.asgi import AsgiApp

            self._asgi = AsgiApp(self)
        return self._asgi

    def include(self, router: Router) -> None:
        """Take in a router's declarations; also those that it gets later.

        Raises:
            DeclarationError: it is included already, or a declaration conflicts with one that is there; the text
                says where both stand.
        """
        if not isinstance(router, Router):
            raise DeclarationError(f"include takes a Router, not {router!r}")
        if router in self._included:
            raise DeclarationError(
                f"the router of {router._place} is included twice: at {self._included[router]} and at {_caller()}"
            )
        self._included[router] = _caller()
        for declared in router._declared:
            self._add(declared.copy())
        router._apps.append(self)

    def _add(self, declared: Declaration) -> None:
        hook = declared.hook
        if declared.event is not None:
            try:
                self.events.add(declared.event)
            except PatternTie as tie:
                raise DeclarationError(f"the event {declared.event.name} is declared twice: {tie}") from None
            return
        if hook is None:
            assert declared.errors is not None
            known = self._errors.setdefault(declared.errors, declared.function)
            if known is not declared.function:
                raise conflict(f"error({declared.errors.__name__})", known, declared.function)
            return
        hook.plan = self._plan(declared, self.overrides.current)
        if declared.kind == "event":
            assert isinstance(hook, Handler)
            self.router.add(hook)
        elif declared.kind == "on_connect":
            if self.connect_hook is not None:
                raise conflict("on_connect", self.connect_hook.function, hook.function)
            self.connect_hook = hook
        elif declared.kind == "on_disconnect":
            if self.disconnect_hook is not None:
                raise conflict("on_disconnect", self.disconnect_hook.function, hook.function)
            self.disconnect_hook = hook
        else:
            assert declared.pattern is not None
            add_to(self.rooms if declared.kind == "room" else self.snapshots, declared.pattern, hook)
        self._declared.append(declared)

    def _plan(self, declared: Declaration, overrides: dict[AnyFunction, AnyFunction]) -> Plan | None:
        hook = declared.hook
        assert hook is not None
        plan = hook.plan_with(overrides)
        if declared.kind == "snapshot" and plan is not None:
            check_shared(hook, plan.link_takers)
        return plan

    def _override(self, overrides: dict[AnyFunction, AnyFunction], wanted: AnyFunction | None) -> None:
        """Plan everything anew; nothing is changed where something does not fit."""
        plans = [(declared.hook, self._plan(declared, overrides)) for declared in self._declared]
        if wanted is not None and not any(plan is not None and wanted in plan.provided for _, plan in plans):
            raise DeclarationError(f"nothing that is declared depends on {name_of(wanted)}")
        for hook, plan in plans:
            assert hook is not None
            hook.plan = plan

    def told(self, error: Exception) -> EventError | None:
        """What a client is told of an error of the application's; None: ``internal``, and it is to be logged."""
        for kind in type(error).__mro__:
            function = self._errors.get(kind)
            if function is None:
                continue
            try:
                answer = function(error)
                if answer is not None and not isinstance(answer, EventError):
                    raise TypeError(f"{name_of(function)} returned {answer!r}, which is no EventError")
            except Exception as fault:  # noqa: BLE001  the boundary of the application
                journal.failed(None, name_of(function), fault)
                return None
            return answer
        return None


class Overrides(MutableMapping[AnyFunction, AnyFunction]):
    """What is called in place of dependencies, by the functions that `Depends` names.

    Raises:
        DeclarationError: nothing depends on the function, or the one in its place does not fit.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.current: dict[AnyFunction, AnyFunction] = {}

    def __getitem__(self, provide: AnyFunction) -> AnyFunction:
        return self.current[provide]

    def __setitem__(self, provide: AnyFunction, other: AnyFunction) -> None:
        changed = {**self.current, provide: other}
        self._app._override(changed, provide)
        self.current = changed

    def __delitem__(self, provide: AnyFunction) -> None:
        changed = dict(self.current)
        del changed[provide]
        self._app._override(changed, None)
        self.current = changed

    def __iter__(self) -> Iterator[AnyFunction]:
        return iter(self.current)

    def __len__(self) -> int:
        return len(self.current)


def _caller() -> str:
    """Who called into this module, as ``chat.handlers, line 12``."""
    frame = sys._getframe(2)
    return f"{frame.f_globals.get('__name__', '?')}, line {frame.f_lineno}"
