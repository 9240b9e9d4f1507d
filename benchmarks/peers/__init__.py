"""Servers on other libraries that do the comparable part: a room for all, and on ``/echo`` an answer to the sender.

Each is a module to run, with the number of an open, listening socket as its argument. A new connection gets
``welcome`` once it is in the room. Text in is JSON and is parsed; text out is encoded once. None of them knows users,
tokens, schemas, acks, a history, limits or time-outs of its own.
"""

import json
import socket
import sys

WELCOME = '{"event":"welcome"}'


def listener() -> socket.socket:
    """The socket that we were started with."""
    return socket.socket(fileno=int(sys.argv[1]))


def reply_to(text: str | bytes) -> str:
    """What everybody, or the sender, is told of a message."""
    message = json.loads(text)
    return json.dumps({"event": "said", "content": message["content"]})
