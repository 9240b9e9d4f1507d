"""On websockets: `serve` and `broadcast`, without compression, on uvloop."""

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers import WELCOME, listener, reply_to

ROOM: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    echo = connection.request is not None and connection.request.path.startswith("/echo")
    if not echo:
        ROOM.add(connection)
    try:
        await connection.send(WELCOME)
        async for text in connection:
            if echo:
                await connection.send(reply_to(text))
            else:
                broadcast(ROOM, reply_to(text))
    finally:
        ROOM.discard(connection)


async def main() -> None:
    async with serve(handle, sock=listener(), compression=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
