"""The chat of the server's tests as an ASGI application, and frameworks with it inside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from roomwire import App
from roomwire.asgi import AsgiApp
from roomwire.config import Loaded, Settings
from tests.server.chat import make_app
from tests.server.live import SECRET

__all__ = ["FRAMEWORKS", "asgi_app", "settings"]


def settings(**sections: Any) -> Settings:
    auth = {"type": "jwt", "options": {"algorithms": ["HS256"], "secret": SECRET}}
    return Settings.model_validate({"app": "chat:app", "auth": auth, **sections})


def asgi_app(app: App | None = None, **sections: Any) -> AsgiApp:
    return AsgiApp(app or make_app(), loaded=Loaded(settings(**sections), None))


def fastapi(chat: AsgiApp, prefix: str) -> Any:
    from fastapi import FastAPI

    api = FastAPI(lifespan=chat.lifespan)

    @api.get("/hello")
    async def hello() -> list[str]:
        return ["hello"]

    api.mount(prefix or "/", chat)
    return api


def starlette(chat: AsgiApp, prefix: str) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Mount, Route

    async def hello(request: Request) -> JSONResponse:
        return JSONResponse(["hello"])

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        async with chat.lifespan():
            yield

    return Starlette(routes=[Route("/hello", hello), Mount(prefix or "/", chat)], lifespan=lifespan)


def litestar(chat: AsgiApp, prefix: str) -> Any:
    from litestar import Litestar, asgi, get

    @get("/hello")
    async def hello() -> list[str]:
        return ["hello"]

    mounted = asgi(prefix or "/", is_mount=True, copy_scope=False)(chat.__call__)
    return Litestar(route_handlers=[hello, mounted], lifespan=[chat.lifespan], logging_config=None)


def django(chat: AsgiApp, prefix: str) -> Any:
    """As Django's own asgi.py: its application answers HTTP, and leaves WebSockets and the lifespan to others."""
    from django.conf import settings as django_settings  # type: ignore[import-untyped]  # has no types

    if not django_settings.configured:
        django_settings.configure(ROOT_URLCONF="tests.asgi.django_urls", SECRET_KEY="of a test", ALLOWED_HOSTS=["*"])
    from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]  # has no types

    pages = get_asgi_application()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith((f"{prefix}/healthz", f"{prefix}/sse")):
            await pages(scope, receive, send)
        else:
            await chat({**scope, "root_path": prefix}, receive, send)

    return application


FRAMEWORKS = {"fastapi": fastapi, "starlette": starlette, "litestar": litestar, "django": django}
