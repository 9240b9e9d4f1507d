"""A live dashboard: a FastAPI application, and beside its routes the numbers of a fleet, as they change."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import anyio
import jwt
from dotenv import load_dotenv
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from fleet import REGIONS, Fleet, Measurement
from pydantic import BaseModel, Field

from roomwire import App, Connection, Unavailable

HERE = Path(__file__).parent
ROOM = "metrics:live"
OPERATORS = frozenset({"ben"})
SPIKE_SECONDS = 8.0

load_dotenv(HERE / ".env")


class Feed:
    """Measures the fleet and publishes what it says, for as long as the application runs."""

    def __init__(self) -> None:
        # Each process measures hosts of its own. DASHBOARD_REGIONS= (none): it serves viewers alone.
        regions = os.environ.get("DASHBOARD_REGIONS", " ".join(REGIONS)).split()
        self.fleet = Fleet(regions, seed=int(os.environ.get("DASHBOARD_SEED", "7")))
        self.per_second = 10.0
        """Measurements of each host a second."""

    async def run(self) -> None:
        self.fleet.begin(time.time())
        due = anyio.current_time()
        while True:
            for measurement in self.fleet.measure(time.time()):
                try:
                    await app.publish(ROOM, "host", measurement)
                except Unavailable:
                    break  # the store is away: what comes next says more than what is late
            due = max(due + 1 / self.per_second, anyio.current_time())
            await anyio.sleep_until(due)


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed.run)
        yield
        tasks.cancel_scope.cancel()


feed = Feed()
app = App(lifespan=lifespan)


@app.room("metrics:{board}")
async def may_watch(connection: Connection, board: str) -> bool:
    """Whoever has a token. Nobody may publish: roomwire.toml says `broadcast_only`."""
    return board == "live"


@app.snapshot("metrics:{board}")
async def last_minute(board: str) -> dict[str, list[Measurement]]:
    """What a page gets that is opened, or was away for too long: a measurement a second of the hosts that are here."""
    return feed.fleet.recent()


# --- FastAPI

api = FastAPI(title="Fleet", lifespan=app.asgi.lifespan)


async def user_of(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    """The user of the same token that opens the WebSocket."""
    try:
        claims = jwt.decode(
            bearer.credentials, os.environ["DASHBOARD_SECRET"], ["HS256"], options={"require": ["exp", "sub"]}
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401, "the token does not verify") from None
    return str(claims["sub"])


User = Annotated[str, Depends(user_of)]


async def operator(user: User) -> str:
    if user not in OPERATORS:
        raise HTTPException(403, "for operators only")
    return user


Operator = Annotated[str, Depends(operator)]


class Spike(BaseModel):
    factor: float = Field(default=2.1, ge=0.1, le=5)


class Rate(BaseModel):
    per_second: float = Field(ge=1, le=100)
    """Measurements of each host."""


@api.get("/api/metrics")
async def metrics(user: User) -> dict[str, Measurement]:
    """The newest measurement of each host that this process measures."""
    return feed.fleet.newest()


@api.post("/api/spike")
async def spike(spike: Spike, user: Operator) -> dict[str, float]:
    """Put load on the hosts that this process measures, and tell all viewers of it."""
    if len(feed.fleet) == 0:
        raise HTTPException(409, "this process measures nothing")
    until = time.time() + SPIKE_SECONDS
    feed.fleet.spike(spike.factor, until)
    await app.publish(
        ROOM, "note", {"name": "spike", "at": time.time(), "text": f"{spike.factor:g} times the load, by {user}"}
    )
    return {"until": until}


@api.get("/api/rate")
async def current_rate(user: User) -> Rate:
    return Rate(per_second=feed.per_second)


@api.put("/api/rate")
async def rate(rate: Rate, user: Operator) -> Rate:
    feed.per_second = rate.per_second
    return rate


# --- the page

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
POLICY += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@api.get("/", include_in_schema=False)
async def page() -> FileResponse:
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return FileResponse(HERE / "static" / "index.html", headers=headers)


@api.get("/demo/tokens", include_in_schema=False)
async def demo_tokens() -> dict[str, list[dict[str, str]]]:
    """Tokens for whoever asks: a demonstration has no login. `roomwire dev` answers this by itself."""
    if os.environ.get("DASHBOARD_DEMO") != "1":
        raise HTTPException(404)
    expires = time.time() + 3600
    secret = os.environ["DASHBOARD_SECRET"]
    return {
        "users": [
            {"user": user, "name": name, "token": jwt.encode({"sub": user, "exp": expires}, secret, "HS256")}
            for user, name in (("ann", "Ann"), ("ben", "Ben"))
        ]
    }


api.mount("/static", StaticFiles(directory=HERE / "static"))
api.mount("/", app.asgi)  # the WebSocket at /ws, the browser client at /roomwire.js
