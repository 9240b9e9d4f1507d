"""On python-socketio: an ASGI application under uvicorn, on uvloop, joined to others by its Redis manager.

All but the publisher are in one room. Its settings are the defaults; it knows no users, tokens, schemas, history or
limits.
"""

import os
from urllib.parse import parse_qs

import socketio
import uvicorn

from benchmarks.peers import listener

sio = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(os.environ["REDIS_URL"]))


@sio.event
async def connect(sid, environ):
    if parse_qs(environ["QUERY_STRING"])["role"] != ["publisher"]:
        await sio.enter_room(sid, "room")


@sio.event
async def say(sid, message):
    await sio.emit("said", {"content": message["content"]}, room="room")


if __name__ == "__main__":
    config = uvicorn.Config(socketio.ASGIApp(sio), loop="uvloop", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener()])
