"""Requests on a socket: one after the other, what their scope says, and faults of the application."""

from __future__ import annotations

import json
import logging

import pytest

from tests.fallback.apps import Played
from tests.fallback.conftest import live_fallback
from tests.fallback.talking import CLOSE, ask, chunks, read_cut, read_response
from tests.server.live import LiveServer, Shell, make_token
from tests.server.raw import connect, exchange, request


class TestOneAfterTheOther:
    def test_requests_that_come_together_are_answered_in_order(self, server: LiveServer) -> None:
        posted = ask("/echo", "Content-Length: 5", method="POST", body=b"hello")
        chunked = ask("/echo", "Transfer-Encoding: chunked", method="PUT", body=chunks(b"a", b"bc"))
        with connect(server.port, posted + chunked + ask() + b"\r\n" + ask("/ignores", CLOSE)) as link:
            bodies = [read_response(link).body for _ in range(4)]
            assert link.read_to_end() == b""
        assert bodies == [b"hello", b"abc", b"root", b"no"]

    def test_behind_one_comes_an_upgrade(self, server: LiveServer) -> None:
        with connect(server.port, ask()) as link:
            assert read_response(link).body == b"root"
            link.send(request("/ws", f"Authorization: Bearer {make_token('ann')}"))
            link.upgraded()
            link.event("session.welcome")

    def test_behind_one_comes_one_of_the_nodes(self, server: LiveServer) -> None:
        with connect(server.port, ask() + ask("/healthz")) as link:
            assert read_response(link).body == b"root"
            assert json.loads(link.response().body)["status"] == "ok"

    def test_a_request_byte_by_byte(self, server: LiveServer) -> None:
        with connect(server.port) as link:
            for _ in range(2):
                for byte in ask("/echo", "Transfer-Encoding: chunked", method="POST", body=chunks(b"ab", b"c")):
                    link.send(bytes([byte]))
                assert read_response(link).body == b"abc"

    @pytest.mark.parametrize(("version", "line"), [("1.0", ""), ("1.0", "Connection: keep-alive"), ("1.1", CLOSE)])
    def test_then_the_connection_ends(self, server: LiveServer, version: str, line: str) -> None:
        lines = [line] if line else []
        assert exchange(server.port, ask("/", *lines, version=version)).body == b"root"

    def test_head_and_204_have_no_body(self, server: LiveServer) -> None:
        with connect(server.port, ask("/ignores", method="HEAD") + ask("/empty") + ask("/", CLOSE)) as link:
            data = link.read_to_end()
        first, second, third = data.split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200")
        assert b"content-length: 2\r\n" in first
        assert first.endswith(b"\r\n\r\n")
        assert second.startswith(b"204")
        assert b"content-length" not in second
        assert third.endswith(b"\r\n\r\nroot")

    def test_a_body_that_nobody_reads_ends_the_connection(self, server: LiveServer) -> None:
        with connect(server.port, ask("/ignores", "Content-Length: 100000", method="POST", body=b"x")) as link:
            response = link.response()
        assert response.body == b"no"
        # Who is not told would send the next request into a closed connection.
        assert response.header("connection") == "close"

    def test_upgrades_are_not_forwarded(self, server: LiveServer, played: Played) -> None:
        assert exchange(server.port, request("/")).status == 404
        assert played.scopes == []
        # One of another protocol is declined by an answer (RFC 9110 section 7.8).
        with connect(server.port, ask("/", "Connection: Upgrade, close", "Upgrade: h2c")) as link:
            assert link.response().body == b"root"

    def test_the_nodes_own_are_never_the_applications(self, server: LiveServer, played: Played) -> None:
        assert exchange(server.port, ask("/healthz")).status == 200
        assert exchange(server.port, ask("/ws")).status == 426
        assert played.scopes == []


class TestTheScope:
    def test_is_what_the_request_says(self, server: LiveServer, played: Played) -> None:
        exchange(server.port, ask("/%65cho?a=%20b&token=x", "X-One: 1", "x-one: 2", CLOSE, method="PUT"))
        scope = played.scopes[0]
        assert (scope["method"], scope["path"], scope["raw_path"]) == ("PUT", "/echo", b"/%65cho")
        assert (scope["query_string"], scope["root_path"]) == (b"a=%20b&token=x", "")
        assert (scope["scheme"], scope["http_version"]) == ("http", "1.1")
        assert [value for name, value in scope["headers"] if name == b"x-one"] == [b"1", b"2"]
        assert scope["client"][0] == "127.0.0.1"
        assert scope["client"][1] > 0
        assert tuple(scope["server"]) == ("127.0.0.1", server.port)
        assert (scope["state"], scope["extensions"]) == ({}, {})

    def test_of_a_target_in_absolute_form_has_its_path(self, server: LiveServer, played: Played) -> None:
        assert exchange(server.port, ask("http://127.0.0.1/echo?a=b", CLOSE)).status == 200
        (scope,) = played.scopes
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/echo", b"/echo", b"a=b")
        assert exchange(server.port, ask("http://localhost/echo", CLOSE)).status == 400
        assert exchange(server.port, ask("*", CLOSE, method="OPTIONS")).status == 400
        assert len(played.scopes) == 1

    def test_of_a_proxys_clients_is_theirs_request_by_request(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, listen={"proxy_headers": True}) as server:
            first = ask("/", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
            second = ask("/", "X-Forwarded-For: 192.0.2.2")
            with connect(server.port, first + second + ask("/", CLOSE)) as link:
                link.read_to_end()
        seen = [(scope["client"][0], scope["scheme"]) for scope in played.scopes]
        assert seen == [("192.0.2.1", "https"), ("192.0.2.2", "http"), ("127.0.0.1", "http")]


class TestFaultsOfTheApplication:
    @pytest.mark.parametrize("path", ["/raises", "/raises-started", "/silent", "/exits", "/closes"])
    def test_before_a_byte_is_out_are_500(
        self, server: LiveServer, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = exchange(server.port, ask(path))
        assert (response.status, response.json["error"]) == (500, "internal")
        assert [record.levelno for record in caplog.records if record.message.startswith("the fallback failed")] == [
            logging.ERROR
        ]

    @pytest.mark.parametrize("path", ["/raises-midway", "/unfinished", "/too-short", "/too-long"])
    def test_in_the_middle_cut_the_connection(
        self, server: LiveServer, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with connect(server.port, ask(path)) as link:
            data = read_cut(link)
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert not body.endswith(b"0\r\n\r\n")
        assert b"content-length: 10" not in head or len(body) < 10
        assert any(record.message.startswith("the fallback failed") for record in caplog.records)
        # Others are served on.
        assert exchange(server.port, ask("/", CLOSE)).body == b"root"

    def test_in_the_middle_of_what_ends_with_the_connection_reset_it(self, server: LiveServer) -> None:
        with connect(server.port, ask("/raises-midway", version="1.0")) as link, pytest.raises(ConnectionResetError):
            link.read_to_end()
