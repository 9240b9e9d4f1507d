"""Keys, tokens made by hand, a clock that is told the time, and an HTTP server that gives out keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from roomwire.core.request import RequestHead

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

NOW = 1_800_000_000.0
SECRET = "a shared secret of more than sixty-four bytes, for HS512 needs so many"
ISSUER = "https://issuer.example"

# Made once: an RSA key takes a moment.
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_RSA_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


class Clock:
    """Seconds, moved by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def public_pem(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(key: PrivateKey, algorithm: str, **members: object) -> dict[str, Any]:
    """The public key as a JWK with further members; one that is None is left out."""
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {name: value for name, value in {**public, **members}.items() if value is not None}


def key_set(*members: Mapping[str, object]) -> bytes:
    return json.dumps({"keys": members}).encode()


def b64(data: bytes | str) -> str:
    encoded = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(encoded).rstrip(b"=").decode()


def encoded(value: str | bytes | Mapping[str, object]) -> str:
    """A segment of a token."""
    return b64(value if isinstance(value, str | bytes) else json.dumps(value))


def handmade(
    header: str | bytes | Mapping[str, object],
    payload: str | bytes | Mapping[str, object],
    secret: str | bytes = SECRET,
    hash_name: str = "sha256",
) -> str:
    """A token with an HMAC signature over whatever JSON text, correct or not."""
    signed = f"{encoded(header)}.{encoded(payload)}"
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{b64(hmac.new(key, signed.encode(), getattr(hashlib, hash_name)).digest())}"


def request(
    token: str | None = None,
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    query: str = "",
) -> RequestHead:
    """A request, with `token` in the Authorization header."""
    bearer = [(b"authorization", b"Bearer " + token.encode("utf-8"))] if token is not None else []
    return RequestHead("GET", "/ws", query, [(b"host", b"example.com"), *bearer, *headers], "127.0.0.1:1")


class KeyServer:
    """A real HTTP server on a free port.

    Attributes:
        document: the body of the answer.
        status: its status.
        headers: further headers of it.
        fetches: how many requests came.
        asked: set by each request.
        gate: requests wait for it; set at first.
        write: replaces how the body is sent.
    """

    def __init__(self, document: bytes = b"{}") -> None:
        self.document = document
        self.status = 200
        self.headers: dict[str, str] = {}
        self.fetches = 0
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.write: Callable[[Any], None] | None = None
        keys = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                keys.fetches += 1
                document, status = keys.document, keys.status
                keys.asked.set()
                keys.gate.wait(30)
                self.send_response(status)
                for name, value in keys.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if keys.write is not None:
                    keys.write(self.wfile)
                else:
                    self.wfile.write(document)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that does not read to the end is part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/keys.json"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._thread.is_alive():
            self.gate.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
