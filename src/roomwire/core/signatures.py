"""What a declared function is: its kind, its name and place for errors, and its annotations, resolved."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Annotated, Any

from pydantic import TypeAdapter

from roomwire.core.errors import DeclarationError

__all__ = ["Kind", "adapter_of", "annotation_of", "hints_of", "kind_of", "name_of", "parameters_of", "place_of"]

Function = Callable[..., Any]


class Kind(Enum):
    """How a function is called."""

    ASYNC = "an async def"
    SYNC = "a def"
    ASYNC_GENERATOR = "an async generator"
    GENERATOR = "a generator"
    CLASS = "a class"


def _plain(function: Function) -> Function:
    """The function whose code and annotations a callable stands for."""
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isroutine(function) or inspect.isclass(function)):
        function = getattr(type(function), "__call__", function)  # noqa: B004  the method, not whether there is one
    unwrapped: Function = inspect.unwrap(function)
    return unwrapped


def kind_of(function: Function) -> Kind:
    """How it is called; a callable object is what its ``__call__`` is."""
    if inspect.isclass(function):
        return Kind.CLASS
    called = function if inspect.isroutine(function) or isinstance(function, functools.partial) else _plain(function)
    if inspect.iscoroutinefunction(called):
        return Kind.ASYNC
    if inspect.isasyncgenfunction(called):
        return Kind.ASYNC_GENERATOR
    return Kind.GENERATOR if inspect.isgeneratorfunction(called) else Kind.SYNC


def name_of(function: Function) -> str:
    """Its name, for logs and errors."""
    return getattr(function, "__qualname__", repr(function))


def place_of(function: Function) -> str:
    """Its name and where it stands, as ``send (chat.handlers, line 12)``."""
    plain = _plain(function)
    module = getattr(plain, "__module__", None) or "?"
    code = getattr(plain, "__code__", None)
    line = "" if code is None else f", line {code.co_firstlineno}"
    return f"{name_of(function)} ({module}{line})"


def hints_of(function: Function) -> dict[str, Any]:
    """Its annotations, resolved, markers included.

    Raises:
        DeclarationError: one names what is not there at run time.
    """
    plain = _plain(function)
    if inspect.isclass(plain):
        plain = plain.__init__
    try:
        return typing.get_type_hints(plain, include_extras=True)
    except Exception as error:
        raise DeclarationError(f"an annotation of {name_of(function)} cannot be resolved: {error}") from error


def parameters_of(function: Function) -> dict[str, inspect.Parameter]:
    """Its parameters by name.

    Raises:
        DeclarationError: one cannot be given by name, or nothing is known of them.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise DeclarationError(f"{name_of(function)}: its parameters are not known") from None
    _check_kinds(name_of(function), parameters.values())
    return dict(parameters)


def _check_kinds(name: str, parameters: Iterable[inspect.Parameter]) -> None:
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DeclarationError(f"{name} takes {parameter}: parameters are taken by name")


def annotation_of(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type, and what is ``Annotated`` to it."""
    if typing.get_origin(annotation) is Annotated:
        inner, *extras = typing.get_args(annotation)
        return inner, tuple(extras)
    return annotation, ()


def adapter_of(annotation: Any, function: Function, what: str) -> TypeAdapter[Any]:
    """What validates `what` of a function.

    Raises:
        DeclarationError: pydantic cannot.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except Exception as error:
        text = getattr(error, "message", str(error))
        raise DeclarationError(f"{what} of {name_of(function)}: pydantic cannot validate it: {text}") from error
    if not adapter.pydantic_complete:
        raise DeclarationError(f"{what} of {name_of(function)}: its type names one that is not defined yet")
    return adapter
