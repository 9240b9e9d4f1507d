"""Handlers and hooks: what a declaration may be, how a message is bound to it, and what a fault tells."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import pytest
from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError

from roomwire.core.errors import DeclarationError, EventError, LocalError
from roomwire.core.patterns import Pattern
from roomwire.core.routing import Bound, Handler, Hook, InvalidReturn, Router

if TYPE_CHECKING:
    from decimal import Decimal


class Link:
    """Stands for the connection's class: the core knows none."""


LINK = Link()


class Message(BaseModel):
    content: str
    count: int = 0

    @field_validator("content")
    @classmethod
    def not_rude(cls, content: str) -> str:
        if content == "rude":
            raise PydanticCustomError("rude", "be kind")
        if content == "secret":
            raise ValueError("a library might have said this")
        if content == "forbidden":
            raise EventError("forbidden", "not here")
        if content == "broken":
            raise ZeroDivisionError
        return content


class Unfinished(BaseModel):
    later: Later  # type: ignore[name-defined]  # noqa: F821  what this is about


class Level(IntEnum):
    LOW = 1


class NoSchema:
    pass


class Broken:
    def __repr__(self) -> str:
        return "<a callable>"

    async def __call__(self, a: int) -> None: ...


def hook(function: Callable[..., Any], *names: str, takes_data: bool = False) -> Hook:
    return Hook(function, Link, names, takes_data=takes_data)


def handler(function: Callable[..., Awaitable[Any]], pattern: str | None = None, *, joined: bool = True) -> Handler:
    return Handler("e", function, Link, None if pattern is None else Pattern(pattern), joined=joined)


def refusal(declare: Callable[[], object]) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare()
    return str(caught.value)


class TestDeclarations:
    def test_nothing_at_all(self) -> None:
        async def function() -> None: ...

        declared = hook(function)
        assert declared.function is function
        assert declared.name.endswith("test_nothing_at_all.<locals>.function")
        assert declared.link_takers == ()
        assert declared.plan is None
        assert declared.data is None
        assert declared.bind(LINK, {}) == {}

    def test_the_connection_is_known_by_its_annotation(self) -> None:
        async def function(who: Link) -> None: ...

        declared = hook(function)
        assert declared.link_takers == (declared.name,)
        assert declared.bind(LINK, {}) == {"who": LINK}

    def test_parameters_of_the_pattern_are_known_by_their_names(self) -> None:
        async def function(b: str, who: Link, a) -> None: ...  # type: ignore[no-untyped-def]  # a bare one is a str

        assert hook(function, "a", "b").bind(LINK, {"a": "x", "b": "y"}) == {"a": "x", "b": "y", "who": LINK}

    def test_the_other_one_is_the_data(self) -> None:
        async def function(*, message: Message, channel: str, who: Link) -> None: ...

        assert hook(function, "channel", takes_data=True).data == "message"

    def test_a_method(self) -> None:
        class Rooms:
            async def function(self, who: Link) -> None: ...

        assert hook(Rooms().function).bind(LINK, {}) == {"who": LINK}

    def test_a_wrapped_function(self) -> None:
        async def inner(who: Link, channel: str) -> None: ...

        @functools.wraps(inner)
        async def outer(*args: Any, **kwargs: Any) -> None: ...

        assert hook(outer, "channel").bind(LINK, {"channel": "x"}) == {"who": LINK, "channel": "x"}

    def test_a_function_that_blocks(self) -> None:
        def function(who: Link, channel: str) -> None: ...

        declared = hook(function, "channel")
        assert declared.plan is not None
        assert declared.plan.blocks
        assert declared.plan.holds
        bound = declared.bind(LINK, {"channel": "x"})
        assert isinstance(bound, Bound)
        assert (bound, bound.slots) == ({"who": LINK, "channel": "x"}, [LINK])

    def test_a_function_that_yields(self) -> None:
        async def asynchronous() -> Any:
            yield

        def blocking() -> Any:
            yield

        text = "is a generator: it has to be an async def or a def"
        assert refusal(lambda: hook(blocking)).endswith(text)
        assert "is an async generator: it has to be" in refusal(lambda: hook(asynchronous))

    def test_a_callable_without_a_name(self) -> None:
        class Anonymous:
            def __repr__(self) -> str:
                return "<a callable>"

            async def __call__(self, who: Link) -> None: ...

        declared = hook(Anonymous())
        assert declared.name == "<a callable>"
        assert declared.plan is None
        assert declared.bind(LINK, {}) == {"who": LINK}
        assert refusal(lambda: hook(Broken())).startswith("<a callable> takes a: a hook takes the connection")

    def test_a_name_of_the_pattern_that_the_function_lacks(self) -> None:
        async def function(a: str) -> None: ...

        text = refusal(lambda: hook(function, "a", "b", "c"))
        assert text.startswith("the pattern names b, c, and ")
        assert text.endswith("function has no such parameter")

    def test_a_parameter_that_the_pattern_lacks(self) -> None:
        async def function(who: Link, channel: str) -> None: ...

        assert "takes who, channel: a hook takes the connection (annotated Link)" in refusal(lambda: hook(function))

    def test_two_parameters_for_the_data(self) -> None:
        async def function(one: int, two: int) -> None: ...

        assert "takes one, two: " in refusal(lambda: hook(function, takes_data=True))

    def test_two_connections(self) -> None:
        async def function(one: Link, two: Link) -> None: ...

        assert "takes one, two: " in refusal(lambda: hook(function, takes_data=True))

    def test_parameters_that_cannot_be_given_by_name(self) -> None:
        async def positional(who: Link, /) -> None: ...
        async def several(*whos: Link) -> None: ...
        async def named(**whos: Link) -> None: ...

        for function, shown in ((positional, "who"), (several, "*whos"), (named, "**whos")):
            text = refusal(lambda function=function: hook(function))  # type: ignore[misc]  # bound in the loop
            assert f"takes {shown}" in text
            assert text.endswith("parameters are taken by name")

    def test_an_annotation_that_is_not_there_at_run_time(self) -> None:
        async def function(price: Decimal) -> None: ...

        text = refusal(lambda: hook(function, takes_data=True))
        assert "an annotation of " in text
        assert "function cannot be resolved: name 'Decimal' is not defined" in text

    def test_a_model_that_names_a_type_which_is_not_defined_yet(self) -> None:
        async def function(data: Unfinished) -> None: ...

        text = refusal(lambda: handler(function))
        assert text.startswith("the parameter data of ")
        assert text.endswith("its type names one that is not defined yet")

    @pytest.mark.parametrize("annotation", [NoSchema, 5, list[NoSchema], Annotated[NoSchema, 1]])
    def test_a_type_that_pydantic_cannot_validate(self, annotation: Any) -> None:
        async def data(data: str) -> None: ...
        async def parameter(channel: str) -> None: ...
        async def returned() -> None: ...

        data.__annotations__["data"] = annotation
        parameter.__annotations__["channel"] = annotation
        returned.__annotations__["return"] = annotation
        assert refusal(lambda: handler(data)).startswith("the parameter data of ")
        assert refusal(lambda: handler(parameter, "{channel}")).startswith("the parameter channel of ")
        text = refusal(lambda: handler(returned))
        assert text.startswith("the return of ")
        assert "pydantic cannot validate it" in text


class TestArguments:
    def test_all_of_them(self) -> None:
        async def function(who: Link, message: Message, channel: str, number: int) -> None: ...

        declared = handler(function, "{channel}:{number}")
        assert declared.arguments(LINK, {"channel": "x", "number": "7"}, '{"content":"hi"}') == {
            "who": LINK,
            "message": Message(content="hi"),
            "channel": "x",
            "number": 7,
        }

    def test_a_handler_without_data_takes_any(self) -> None:
        async def function(who: Link) -> None: ...

        for data in ("null", '{"a":1}'):
            assert handler(function).arguments(LINK, {}, data) == {"who": LINK}

    @pytest.mark.parametrize("annotation", [Any, object, None])
    def test_any_json_is_given_as_it_was_decoded(self, annotation: Any) -> None:
        async def function(data) -> None: ...  # type: ignore[no-untyped-def]  # bare, or annotated below

        if annotation is not None:
            function.__annotations__["data"] = annotation
        assert handler(function).arguments(LINK, {}, '{"a":[1]}')["data"] == {"a": [1]}

    @pytest.mark.parametrize(
        ("annotation", "raw", "value"),
        [
            (int, "1", 1),
            (str | None, "null", None),
            (list[int], "[1,2]", [1, 2]),
            (Literal["a", "b"], '"a"', "a"),
            (Annotated[int, Field(gt=3)], "4", 4),
        ],
    )
    def test_any_type_of_pydantic_is_a_schema(self, annotation: Any, raw: str, value: object) -> None:
        async def function(data: object) -> None: ...

        function.__annotations__["data"] = annotation
        assert handler(function).arguments(LINK, {}, raw) == {"data": value}

    def test_bytes_come_in_binary_messages(self) -> None:
        async def function(data: bytes) -> None: ...

        declared = handler(function)
        assert declared.binary
        assert declared.arguments(LINK, {}, b"\xff") == {"data": b"\xff"}

    def test_bytes_with_a_constraint(self) -> None:
        async def function(data: Annotated[bytes, Field(max_length=2)]) -> None: ...

        declared = handler(function)
        assert declared.binary
        assert declared.arguments(LINK, {}, b"\xff\x00") == {"data": b"\xff\x00"}
        with pytest.raises(EventError) as caught:
            declared.arguments(LINK, {}, b"abc")
        assert caught.value.details == [{"loc": [], "type": "bytes_too_long"}]

    def test_bytes_where_json_is_wanted_and_the_reverse(self) -> None:
        async def json(data: str) -> None: ...
        async def binary(data: bytes) -> None: ...

        with pytest.raises(EventError, match="invalid: e takes JSON, not bytes"):
            handler(json).arguments(LINK, {}, b"x")
        with pytest.raises(EventError, match="invalid: e takes bytes, not JSON"):
            handler(binary).arguments(LINK, {}, '"x"')

    def test_a_room_that_does_not_fit(self) -> None:
        async def function(number: int, level: Level) -> None: ...

        declared = handler(function, "{number}:{level}")
        assert declared.arguments(LINK, {"number": "7", "level": "1"}, "null")["level"] is Level.LOW
        with pytest.raises(EventError) as caught:
            declared.arguments(LINK, {"number": "seven", "level": "1"}, "null")
        assert (caught.value.code, caught.value.details) == ("invalid", None)
        assert caught.value.message == "the room does not fit the event's schema"


async def send(message: Message) -> None: ...


class TestFaults:
    """What is told: codes and places. Never what was sent, and never what a library said."""

    def fault(self, raw: str) -> EventError:
        with pytest.raises(EventError) as caught:
            handler(send).arguments(LINK, {}, raw)
        return caught.value

    @pytest.mark.parametrize(
        ("raw", "details"),
        [
            ("{}", [{"loc": ["content"], "type": "missing"}]),
            ('{"content":7}', [{"loc": ["content"], "type": "string_type"}]),
            ('{"content":"secret"}', [{"loc": ["content"], "type": "value_error"}]),
            ('{"content":"rude"}', [{"loc": ["content"], "type": "rude", "msg": "be kind"}]),
            (
                '{"content":"x","count":"many"}',
                [{"loc": ["count"], "type": "int_parsing"}],
            ),
            ("null", [{"loc": [], "type": "model_type"}]),
        ],
    )
    def test_a_fault(self, raw: str, details: object) -> None:
        error = self.fault(raw)
        assert error.__suppress_context__
        assert (error.code, error.message) == ("invalid", "the data does not fit the event's schema")
        assert error.details == details

    def test_they_are_few(self) -> None:
        async def function(data: list[int]) -> None: ...

        with pytest.raises(EventError) as caught:
            handler(function).arguments(LINK, {}, "[" + '"a",' * 500 + "1]")
        assert isinstance(caught.value.details, list)
        assert len(caught.value.details) == 20

    def test_a_validator_may_answer_itself(self) -> None:
        error = self.fault('{"content":"forbidden"}')
        assert (error.code, error.message) == ("forbidden", "not here")

    def test_a_validator_that_fails_is_the_applications_fault(self) -> None:
        with pytest.raises(ZeroDivisionError):
            handler(send).arguments(LINK, {}, '{"content":"broken"}')


class TestReturns:
    @staticmethod
    def dumps(annotation: Any, value: object) -> bytes:
        async def function() -> object: ...

        if annotation is Ellipsis:
            del function.__annotations__["return"]
        else:
            function.__annotations__["return"] = annotation
        return handler(function).dump(value)

    @pytest.mark.parametrize("annotation", [None, NoReturn, Any, object, Ellipsis])
    def test_nothing(self, annotation: Any) -> None:
        assert self.dumps(annotation, None) == b"null"

    @pytest.mark.parametrize("annotation", [Any, object, Ellipsis])
    def test_anything(self, annotation: Any) -> None:
        assert self.dumps(annotation, {"a": [1, math.nan]}) == b'{"a":[1,null]}'
        assert self.dumps(annotation, Message(content="ü")) == '{"content":"ü","count":0}'.encode()

    @pytest.mark.parametrize(
        ("annotation", "value", "raw"),
        [
            (dict[str, str], {"id": "E:1"}, b'{"id":"E:1"}'),
            (Message, Message(content="x"), b'{"content":"x","count":0}'),
            (Message, {"content": "x"}, b'{"content":"x","count":0}'),
            (list[float], [1, math.inf], b"[1.0,null]"),
            (dict[str, Any], {"a": math.nan}, b'{"a":null}'),
            (int | None, None, b"null"),
        ],
    )
    def test_what_the_annotation_says(self, annotation: Any, value: object, raw: bytes) -> None:
        assert self.dumps(annotation, value) == raw

    @pytest.mark.parametrize(
        ("annotation", "value"),
        [(dict[str, str], {"id": 1}), (int, None), (Any, object()), (Any, "\ud800"), (Any, b"\xff"), (str, "\ud800")],
    )
    def test_what_it_does_not_allow(self, annotation: Any, value: object) -> None:
        with pytest.raises(InvalidReturn, match="returned what its annotation does not allow") as caught:
            self.dumps(annotation, value)
        assert isinstance(caught.value, LocalError)


async def handle() -> None: ...
async def handle_channel(channel: str) -> None: ...
async def handle_other(other: str) -> None: ...


HANDLERS: dict[str | None, Callable[..., Awaitable[None]]] = {
    "chat:{channel}": handle_channel,
    "chat:{other}": handle_other,
}


class TestRouter:
    @staticmethod
    def router(*declared: tuple[str, str | None]) -> tuple[Router, list[Handler]]:
        router, handlers = Router(), []
        for event, pattern in declared:
            compiled = None if pattern is None else Pattern(pattern)
            handlers.append(Handler(event, HANDLERS.get(pattern, handle), Link, compiled))
            router.add(handlers[-1])
        return router, handlers

    def test_by_event_and_room(self) -> None:
        router, (general, chat, plain, other) = self.router(
            ("send", "chat:general"), ("send", "chat:{channel}"), ("send", None), ("draw", "board:*")
        )
        assert router.find("send", "chat:general") == (general, {})
        assert router.find("send", "chat:x") == (chat, {"channel": "x"})
        assert router.find("send", "elsewhere") == (plain, {})
        assert router.find("send", None) == (plain, {})
        assert router.find("draw", "board:7") == (other, {})
        assert router.find("draw", "chat:x") is None
        assert router.find("draw", None) is None
        assert router.find("unknown", "board:7") is None
        assert [router.knows(event) for event in ("send", "draw", "unknown")] == [True, True, False]

    def test_a_handler_without_a_room_alone(self) -> None:
        router, (plain,) = self.router(("send", None))
        assert router.find("send", "r") == (plain, {})
        assert router.knows("send")

    def test_two_handlers_of_one_event(self) -> None:
        text = refusal(lambda: self.router(("send", None), ("draw", None), ("send", None)))
        module, line = __name__, handle.__code__.co_firstlineno
        assert text == f"send is handled by handle ({module}, line {line}) and by handle ({module}, line {line})"

    def test_two_handlers_of_one_event_in_the_same_rooms(self) -> None:
        text = refusal(lambda: self.router(("send", "chat:{channel}"), ("send", "chat:{other}")))
        assert "nothing decides" in text
        assert f"handle_channel ({__name__}, line " in text
        assert f"handle_other ({__name__}, line " in text
        self.router(("send", "chat:{channel}"), ("draw", "chat:{other}"))
