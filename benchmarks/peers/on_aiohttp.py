"""On aiohttp: a handler for each connection and `send_str` to each member in turn, without compression, on uvloop."""

import asyncio

import uvloop
from aiohttp import WSMsgType, web

from benchmarks.peers import WELCOME, listener, reply_to

ROOM: set[web.WebSocketResponse] = set()


async def handle(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(compress=False)
    await connection.prepare(request)
    echo = request.path == "/echo"
    if not echo:
        ROOM.add(connection)
    try:
        await connection.send_str(WELCOME)
        async for message in connection:
            if message.type is not WSMsgType.TEXT:
                continue
            text = reply_to(message.data)
            if echo:
                await connection.send_str(text)
            else:
                for member in list(ROOM):
                    await member.send_str(text)
    finally:
        ROOM.discard(connection)
    return connection


async def main() -> None:
    application = web.Application()
    application.router.add_get("/room", handle)
    application.router.add_get("/echo", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
