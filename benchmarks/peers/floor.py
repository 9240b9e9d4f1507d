"""The floor: the least that Python on uvloop does. No JSON, one ready frame, one ``os.write`` for each member.

It reads whole masked text frames under 64 KiB and nothing else of the protocol: it is no WebSocket server.
"""

import asyncio
import base64
import hashlib
import os

import uvloop

from benchmarks.peers import WELCOME, listener

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ROOM: dict["Floor", None] = {}


def frame_of(payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + payload


class Floor(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.fd = transport.get_extra_info("socket").fileno()
        self.open = self.echo = False

    def data_received(self, data):
        start = 0 if self.open else self.upgrade(data)
        while start < len(data):
            size, start = data[start + 1] & 0x7F, start + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            key, start = data[start : start + 4], start + 4
            mask = (key * (size // 4 + 1))[:size]
            payload = int.from_bytes(data[start : start + size], "big") ^ int.from_bytes(mask, "big")
            start += size
            frame = frame_of(payload.to_bytes(size, "big"))
            if self.echo:
                os.write(self.fd, frame)
            else:
                for member in ROOM:
                    os.write(member.fd, frame)

    def upgrade(self, data):
        head, _, _ = data.partition(b"\r\n\r\n")
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.open, self.echo = True, head.startswith(b"GET /echo")
        if not self.echo:
            ROOM[self] = None
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        os.write(self.fd, answer + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frame_of(WELCOME.encode()))
        return len(head) + 4

    def connection_lost(self, error):
        ROOM.pop(self, None)


async def main():
    server = await asyncio.get_running_loop().create_server(Floor, sock=listener())
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
