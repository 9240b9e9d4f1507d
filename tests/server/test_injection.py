"""What handlers and hooks take besides data: dependencies and their clean-up, the user, claims; and overrides.

Annotations are what they are at once, so that functions may depend on those beside them.
"""

import logging
from typing import Annotated, Any

import pytest
from websockets.exceptions import InvalidStatus

from roomwire import App, Connection, DeclarationError, Depends, EventError, Unavailable, User
from tests.server.conftest import Serve
from tests.server.injecting import Gone, Journal, make_app
from tests.server.live import Client, LiveServer, make_token

FAILED = "the server failed; it has been logged"


@pytest.fixture
def journal() -> Journal:
    return Journal()


def connect(server: LiveServer, user: str = "ann", **claims: Any) -> Client:
    return server.connect(user, token=make_token(user, **{"role": "admin", **claims}))


def ask(server: LiveServer, data: Any = None, channel: str = "general", **claims: Any) -> dict[str, Any]:
    answer: dict[str, Any] = connect(server, **claims).request("ask", data, room=f"chat:{channel}")
    return answer


class TestDependencies:
    @pytest.mark.wire
    def test_they_are_called_in_order_and_cleaned_up_before_the_ack(
        self, shell: Any, serve: Serve, journal: Journal
    ) -> None:
        answer = ask(serve(shell, app=make_app(journal)))
        assert answer["data"] == ["session of ann", "cursor of session of ann", "hello ann", "admin"]
        assert journal.lines == ["open general", "cursor", "handled", "cursor closed", "committed"]

    def test_they_see_what_the_handler_raised(self, shell: Any, serve: Serve, journal: Journal) -> None:
        answer = ask(serve(shell, app=make_app(journal)), "fail")
        assert answer["data"] == {"code": "app.gone", "message": "broken"}
        assert journal.lines == ["open general", "cursor", "cursor closed", "rolled back broken"]

    def test_clean_up_that_fails_is_the_answer(self, serve: Serve, journal: Journal) -> None:
        answer = ask(serve(app=make_app(journal)), channel="full")
        assert (answer["event"], answer["data"]["code"]) == ("error", "app.conflict")

    def test_none_can_hide_what_was_raised(self, serve: Serve, journal: Journal) -> None:
        answer = connect(serve(app=make_app(journal))).request("hide")
        assert answer["data"] == {"code": "app.gone", "message": "seen all the same"}
        assert journal.lines == ["swallowed"]

    def test_claims_that_do_not_fit_are_forbidden_before_anything_is_called(
        self, serve: Serve, journal: Journal
    ) -> None:
        answer = ask(serve(app=make_app(journal)), role=7)
        assert answer["data"] == {"code": "forbidden", "message": "the credential does not say what this needs"}
        assert journal.lines == []

    def test_a_snapshot_takes_no_dependency_that_takes_the_connection(self) -> None:
        def peer(connection: Connection) -> str:
            return connection.peer

        def owner(peer: Annotated[str, Depends(peer)]) -> str:
            return peer

        def state(owner: Annotated[str, Depends(owner)]) -> None: ...

        with pytest.raises(DeclarationError, match=r"peer, a dependency of .*state, takes a connection, but"):
            App().snapshot("chat:*")(state)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("gone", {"code": "app.gone", "message": "it is"}),
            ("lost", {"code": "app.gone", "message": "so is it"}),
            ("unknown", {"code": "internal", "message": FAILED}),
            ("broken", {"code": "internal", "message": FAILED}),
            ("liar", {"code": "internal", "message": FAILED}),
        ],
    )
    def test_what_the_application_says_of_them(
        self, serve: Serve, journal: Journal, name: str, told: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = connect(serve(app=make_app(journal))).request("raise", name)
        assert answer["data"] == told
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert bool(errors) == (told["code"] == "internal")

    def test_a_validation_in_the_applications_own_code_is_no_fault_of_the_client(
        self, serve: Serve, journal: Journal
    ) -> None:
        client = connect(serve(app=make_app(journal)))
        assert client.request("validate", {"number": 7})["data"] == {"code": "internal", "message": FAILED}
        assert client.request("validate", {"number": "none"})["data"]["code"] == "invalid"

    def test_in_policies_and_in_the_connect_hook(self, shell: Any, serve: Serve, journal: Journal) -> None:
        server = serve(shell, app=make_app(journal))
        client = connect(server)
        answer = client.request("room.join", room="chat:gone")
        assert answer["data"] == {"code": "app.gone", "message": "no such channel"}
        assert client.request("room.join", room="chat:secret")["data"]["code"] == "forbidden"
        with pytest.raises(InvalidStatus) as caught:
            connect(server, "gone")
        assert caught.value.response.status_code == 403
        assert b"moved away" in (caught.value.response.body or b"")

    @pytest.mark.parametrize("errors", [Exception, 7, int, BaseException])
    def test_what_is_too_general_or_no_error(self, errors: Any) -> None:
        with pytest.raises(DeclarationError, match=r"would hide every fault|takes a class of exceptions"):
            App().error(errors)

    def test_what_roomwire_answers_itself(self) -> None:
        for errors in (EventError, Unavailable):
            with pytest.raises(DeclarationError, match="is answered by roomwire itself"):
                App().error(errors)

    def test_two_functions_for_one_class_and_one_that_waits(self) -> None:
        app = App()

        @app.error(Gone)
        def one(error: Gone) -> None: ...

        app.error(Gone)(one)
        text = r"error\(Gone\) is declared twice: by .*one \(.*test_injection, line \d+\) and by .*two \("
        with pytest.raises(DeclarationError, match=text):

            @app.error(Gone)
            def two(error: Gone) -> None: ...

        with pytest.raises(DeclarationError, match="three has to be a def"):

            @app.error(KeyError)  # type: ignore[arg-type]  # what this is about
            async def three(error: KeyError) -> None: ...


class TestOverrides:
    def test_they_hold_from_the_next_message_on(self, serve: Serve) -> None:
        app, get_price, fake = priced_app()
        client = serve(app=app).connect()
        assert client.request("price")["data"] == 5
        app.overrides[get_price] = fake
        assert (dict(app.overrides), len(app.overrides), app.overrides[get_price]) == ({get_price: fake}, 1, fake)
        assert client.request("price")["data"] == 7
        app.overrides.clear()
        assert client.request("price")["data"] == 5

    def test_one_that_nothing_depends_on_or_that_does_not_fit(self) -> None:
        app, get_price, fake = priced_app()
        with pytest.raises(DeclarationError, match=r"nothing that is declared depends on .*fake"):
            app.overrides[fake] = get_price

        def needy(nothing: int) -> int:
            return nothing

        with pytest.raises(DeclarationError, match=r"needy .* takes nothing: a dependency takes the connection"):
            app.overrides[get_price] = needy
        with pytest.raises(KeyError):
            del app.overrides[get_price]
        assert not app.overrides


def priced_app() -> tuple[App, Any, Any]:
    app = App()

    def get_price() -> int:
        return 5

    async def fake(user: Annotated[str, User]) -> int:
        return 7 if user == "ann" else 0

    @app.on("price")
    async def price(it: Annotated[int, Depends(get_price)]) -> int:
        return it

    return app, get_price, fake
