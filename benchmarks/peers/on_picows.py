"""On picows: a listener for each connection and `send` to each member, on uvloop."""

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers import WELCOME, listener, reply_to

ROOM: dict[WSTransport, None] = {}


class Peer(WSListener):
    def __init__(self, echo: bool) -> None:
        super().__init__()
        self.echo = echo

    def on_ws_connected(self, transport: WSTransport) -> None:
        if not self.echo:
            ROOM[transport] = None
        transport.send(WSMsgType.TEXT, WELCOME.encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            text = reply_to(frame.get_payload_as_bytes()).encode()
            if self.echo:
                transport.send(WSMsgType.TEXT, text)
            else:
                for member in ROOM:
                    member.send(WSMsgType.TEXT, text)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        ROOM.pop(transport, None)


def peer_for(request: WSUpgradeRequest) -> Peer:
    return Peer(request.path == b"/echo")


async def main() -> None:
    server = await ws_create_server(peer_for, sock=listener())
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
