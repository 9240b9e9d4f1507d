"""Dependencies: what each function may take, in which order they are called, and what a wrong one tells.

Nothing is called here but by `run`, which goes through a plan as the node does, without threads and clean-up.
Annotations are what they are at once, so that functions may depend on those beside them.
"""

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, Field, ValidationError

from roomwire.core.errors import DeclarationError, EventError
from roomwire.core.injection import Claims, Depends, Plan, User
from roomwire.core.patterns import Pattern
from roomwire.core.routing import Bound, Handler, Hook
from roomwire.core.signatures import Kind, kind_of, name_of, place_of

T = TypeVar("T")


class Link:
    """Stands for the connection's class: the core knows none."""

    user = "7"
    claims: Mapping[str, object] = {"sub": "7", "role": "admin"}


LINK = Link()
CALLS: list[str] = []


class Role(BaseModel):
    role: str = Field(min_length=3)


def settings() -> str:
    CALLS.append("settings")
    return "settings"


def session(settings: Annotated[str, Depends(settings)]) -> str:
    CALLS.append("session")
    return f"session of {settings}"


def channel_of(link: Link, channel: str, number: int, page: int = 5) -> tuple[Any, ...]:
    CALLS.append("channel_of")
    return link, channel, number, page


class Service:
    def __init__(self, session: Annotated[str, Depends(session)]) -> None:
        self.session = session


class Box(Generic[T]):
    pass


def fresh() -> int:
    CALLS.append("fresh")
    return len(CALLS)


def first(other: int) -> int:
    return other


def second(other: Annotated[int, Depends(first)]) -> int:
    return other


def third(other: Annotated[int, Depends(second)]) -> int:
    return other


def run(hook: Hook, path: Mapping[str, str] | None = None) -> dict[str, object]:
    """The arguments of a hook; generators give their value, and are left open."""
    CALLS.clear()
    arguments = hook.bind(LINK, path or {})
    assert isinstance(arguments, Bound)
    assert hook.plan is not None
    slots = arguments.slots
    for step in hook.plan.steps:
        value = step.call(**{name: slots[slot] for name, slot in step.takes})
        slots.append(value.__enter__() if isinstance(value, AbstractContextManager) else value)
    return arguments | {name: slots[slot] for name, slot in hook.plan.takes}


def hook(function: Callable[..., Any], *names: str, **options: Any) -> Hook:
    return Hook(function, Link, names, **options)


def planned(function: Callable[..., Any], *names: str) -> Plan:
    plan = hook(function, *names).plan
    assert plan is not None
    return plan


def refusal(declare: Callable[[], object]) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare()
    return str(caught.value)


class TestWhatAFunctionTakes:
    def test_a_dependency_of_a_dependency(self) -> None:
        async def function(session: Annotated[str, Depends(session)]) -> None: ...

        assert run(hook(function)) == {"session": "session of settings"}
        assert CALLS == ["settings", "session"]

    def test_each_is_called_once_for_a_message(self) -> None:
        async def function(
            one: Annotated[str, Depends(session)],
            two: Annotated[str, Depends(session)],
            service: Annotated[Service, Depends()],
        ) -> None: ...

        arguments = run(hook(function))
        service = arguments["service"]
        assert isinstance(service, Service)
        assert {arguments["one"], arguments["two"], service.session} == {"session of settings"}
        assert CALLS == ["settings", "session"]

    def test_but_where_it_is_not_to_be_cached(self) -> None:
        async def function(
            one: Annotated[int, Depends(fresh)],
            two: Annotated[int, Depends(fresh, use_cache=False)],
            three: Annotated[int, Depends(fresh, use_cache=False)],
            four: Annotated[int, Depends(fresh)],
        ) -> None: ...

        assert run(hook(function)) == {"one": 1, "two": 2, "three": 3, "four": 1}

    def test_it_may_take_the_connection_and_path_parameters(self) -> None:
        async def function(found: Annotated[Any, Depends(channel_of)], channel: str) -> None: ...

        declared = hook(function, "channel", "number")
        assert run(declared, {"channel": "x", "number": "7"}) == {"channel": "x", "found": (LINK, "x", 7, 5)}
        assert declared.link_takers == ("channel_of",)
        with pytest.raises(ValidationError):
            declared.bind(LINK, {"channel": "x", "number": "seven"})

    def test_besides_the_data(self) -> None:
        async def function(
            link: Link, message: Annotated[int, Field(gt=0)], session: Annotated[str, Depends(session)]
        ) -> None: ...

        handler = Handler("e", function, Link, None)
        assert handler.data == "message"
        arguments = handler.arguments(LINK, {}, "5")
        assert isinstance(arguments, Bound)
        assert (arguments, arguments.slots) == ({"link": LINK, "message": 5}, [LINK])

    def test_a_path_parameter_of_a_dependency_that_does_not_fit(self) -> None:
        async def function(found: Annotated[Any, Depends(channel_of)]) -> None: ...

        with pytest.raises(EventError, match="invalid: the room does not fit the event's schema"):
            Handler("e", function, Link, Pattern("{channel}:{number}")).arguments(
                LINK, {"channel": "x", "number": "seven"}, "null"
            )

    @pytest.mark.parametrize(
        ("annotation", "value"),
        [
            (Annotated[str, User], "7"),
            (Annotated[int, User], 7),
            (Annotated[Any, User], "7"),
            (Annotated[int, Field(gt=6), User], 7),
            (Annotated[Mapping[str, object], Claims], Link.claims),
            (Annotated[Any, Claims], Link.claims),
            (Annotated[Role, Claims], Role(role="admin")),
        ],
    )
    def test_user_and_claims(self, annotation: Any, value: object) -> None:
        async def function(it: object) -> None: ...

        function.__annotations__["it"] = annotation
        assert run(hook(function)) == {"it": value}

    @pytest.mark.parametrize(
        "annotation",
        [Annotated[bytes, Field(max_length=0), User], Annotated[int, Field(gt=7), User], Annotated[list[str], Claims]],
    )
    def test_user_and_claims_that_do_not_fit(self, annotation: Any) -> None:
        async def function(it: object) -> None: ...

        function.__annotations__["it"] = annotation
        with pytest.raises(EventError, match="forbidden: the credential does not say what this needs"):
            hook(function).bind(LINK, {})

    def test_what_is_taken_twice_is_read_once(self) -> None:
        def role(claims: Annotated[Role, Claims], channel: str) -> str:
            return claims.role + channel

        async def function(
            user: Annotated[str, User],
            claims: Annotated[Role, Claims],
            raw: Annotated[Any, Claims],
            role: Annotated[str, Depends(role)],
        ) -> None: ...

        plan = planned(function, "channel")
        assert [(entry.name, entry.of_link) for entry in plan.inputs] == [
            ("user", True),
            ("claims", True),
            ("claims", True),
            ("channel", False),
        ]
        assert run(hook(function, "channel"), {"channel": "x"})["role"] == "adminx"
        assert plan.link_takers == (name_of(function), name_of(role))

    def test_a_path_parameter_named_as_an_attribute_of_the_link_is_another_thing(self) -> None:
        def claimed(claims: str) -> str:
            return claims

        async def function(user: Annotated[str, User], it: Annotated[str, Depends(claimed)]) -> None: ...

        assert run(hook(function, "claims"), {"claims": "x"}) == {"user": "7", "it": "x"}


class TestHowItIsCalled:
    async def asynchronous(self) -> None: ...

    def blocking(self) -> None: ...

    async def yielding(self) -> AsyncIterator[None]:
        yield

    def generator(self) -> Iterator[str]:
        yield "given"

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("asynchronous", Kind.ASYNC),
            ("blocking", Kind.SYNC),
            ("yielding", Kind.ASYNC_GENERATOR),
            ("generator", Kind.GENERATOR),
        ],
    )
    def test_the_kind_of_a_function(self, name: str, kind: Kind) -> None:
        function = getattr(self, name)
        assert kind_of(function) is kind
        assert kind_of(functools.partial(function)) is kind
        called = type("Called", (), {"__call__": getattr(type(self), name)})
        assert kind_of(called()) is kind
        assert kind_of(called) is Kind.CLASS

    def test_generators_give_what_they_yield(self) -> None:
        async def function(it: Annotated[str, Depends(self.generator)]) -> None: ...

        assert run(hook(function)) == {"it": "given"}

    @pytest.mark.parametrize(
        ("provides", "holds"),
        [
            ((), False),
            (("blocking", "asynchronous"), False),
            (("generator",), True),
            (("yielding", "blocking"), True),
        ],
    )
    def test_who_has_its_place_from_the_start(self, provides: tuple[str, ...], holds: bool) -> None:
        def both(a: Any = None, b: Any = None) -> None: ...
        async def function(it: Annotated[None, Depends(both)], user: Annotated[str, User]) -> None: ...

        for parameter, name in zip("ab", provides, strict=False):
            both.__annotations__[parameter] = Annotated[Any, Depends(getattr(self, name))]
        plan = planned(function)
        assert (plan.holds, plan.blocks) == (holds, False)
        assert len(plan.steps) == len(provides) + 1

    def test_one_that_needs_no_thread_has_none(self) -> None:
        async def function(
            a: Annotated[None, Depends(self.asynchronous)], b: Annotated[None, Depends(self.yielding)]
        ) -> None: ...

        assert not planned(function).holds

    def test_a_def_holds_its_place(self) -> None:
        def function() -> None: ...

        plan = planned(function)
        assert (plan.holds, plan.blocks, plan.steps) == (True, True, ())


class TestOverrides:
    def test_another_function_with_other_parameters(self) -> None:
        def fake(user: Annotated[str, User]) -> str:
            return f"fake of {user}"

        async def function(one: Annotated[Service, Depends()], two: Annotated[Any, Depends(channel_of)]) -> None: ...

        declared = hook(function, "channel", "number")
        declared.plan = declared.plan_with({session: fake, channel_of: fresh})
        arguments = run(declared, {"channel": "x", "number": "7"})
        service = arguments["one"]
        assert isinstance(service, Service)
        assert (service.session, arguments["two"]) == ("fake of 7", 1)
        assert declared.plan is not None
        assert declared.plan.provided == {Service, session, channel_of}

    def test_one_that_does_not_fit(self) -> None:
        def fake(nothing: str) -> None: ...

        async def function(session: Annotated[str, Depends(session)]) -> None: ...

        assert "fake (" in refusal(lambda: hook(function).plan_with({session: fake}))

    def test_where_nothing_is_injected(self) -> None:
        async def function() -> None: ...

        assert hook(function).plan_with({session: settings}) is None


class TestWhatDoesNotFit:
    def test_a_parameter_of_a_dependency_that_nothing_gives(self) -> None:
        def needy(channel: str) -> None: ...

        async def function(it: Annotated[None, Depends(needy)]) -> None: ...

        text = refusal(lambda: hook(function))
        place = f"{name_of(needy)} ({__name__}, line {needy.__code__.co_firstlineno})"
        assert text.startswith(f"{place}, a dependency of {name_of(function)}, takes channel: ")
        assert "takes channel: a dependency takes the connection (annotated Link), a pattern's parameters, and" in text
        assert "the pattern's room, and what" in refusal(lambda: hook(function, "room"))

    def test_a_name_of_the_pattern_that_neither_takes(self) -> None:
        async def function(session: Annotated[str, Depends(session)]) -> None: ...

        assert refusal(lambda: hook(function, "room")).startswith("the pattern names room, and ")

    def test_a_name_of_the_pattern_with_a_marker(self) -> None:
        async def function(room: Annotated[str, User]) -> None: ...

        assert refusal(lambda: hook(function, "room")).endswith("has a marker, and the pattern names it too")

    def test_a_circle(self) -> None:
        first.__annotations__["other"] = Annotated[int, Depends(second)]

        async def function(it: Annotated[int, Depends(third)]) -> None: ...

        assert refusal(lambda: hook(function)) == "second depends on itself: second -> first -> second"

    @pytest.mark.parametrize(
        ("annotation", "text"),
        [
            (Annotated[str, User, Claims], "has 2 markers"),
            (Annotated[str, Depends], "write Depends(...), with the function or with nothing"),
            (User, "the marker stands behind the type: Annotated[str, User]"),
            (Annotated[Depends(session), 1], "the marker stands behind the type"),
            (Annotated[int | None, Depends()], "Depends() calls the class that the parameter is annotated with, and"),
            (Annotated[Box, User], "pydantic cannot validate it"),
        ],
    )
    def test_a_marker_that_is_none(self, annotation: Any, text: str) -> None:
        async def function(it: object) -> None: ...

        function.__annotations__["it"] = annotation
        told = refusal(lambda: hook(function))
        assert told.startswith("the parameter it of ")
        assert text in told

    def test_a_default_as_others_write_it(self) -> None:
        async def function(it: Any = Depends(session)) -> None: ...  # noqa: B008  what this is about

        assert "write it: Annotated[..., Depends(...)], without a default" in refusal(lambda: hook(function))

    def test_what_cannot_be_called(self) -> None:
        assert "takes a function or a class, not 7" in refusal(lambda: Depends(7))  # type: ignore[arg-type]

    def test_parameters_that_are_not_known_or_not_taken_by_name(self) -> None:
        def several(*numbers: int) -> None: ...

        async def of_several(it: Annotated[None, Depends(several)]) -> None: ...
        async def of_builtin(it: Annotated[str, Depends(str)]) -> None: ...

        assert "several takes *numbers: int: parameters are taken by name" in refusal(lambda: hook(of_several))
        assert refusal(lambda: hook(of_builtin)) == "str: its parameters are not known"

    def test_where_something_stands(self) -> None:
        assert place_of(Service) == f"Service ({__name__})"
        assert place_of(functools.partial(session)).endswith(f"({__name__}, line {session.__code__.co_firstlineno})")
        nowhere = type("Nowhere", (), {"__module__": None})
        assert place_of(nowhere) == "Nowhere (?)"
