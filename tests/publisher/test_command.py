"""``roomwire publish``: what it publishes, prints and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from roomwire.backplanes.memory import MemoryOptions
from roomwire.cli import main
from tests.publisher.support import Faults, LosingBackplane, kept

CONFIG = '[backplane]\ntype = "tests.publisher.support:HubBackplane"\n'
FAULTS = Faults()


class FailingBackplane(LosingBackplane):
    """Refuses whatever comes."""

    def __init__(self, options: MemoryOptions | None = None) -> None:
        super().__init__(FAULTS)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roomwire.toml").write_text(CONFIG)
    return tmp_path


def publish(*arguments: str, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["publish", *arguments], input=input, prog_name="roomwire")


def test_the_id_is_printed_alone() -> None:
    result = publish("cli:1", "n", '{"a": "é"}')
    assert (result.exit_code, result.stderr) == (0, "")
    (publication,) = kept("cli:1")
    assert result.stdout.count("\n") == 1
    assert result.stdout.rstrip().endswith(":1")
    assert (publication.event, json.loads(publication.data)) == ("n", {"a": "é"})


def test_data_come_from_stdin_and_without_any_are_null() -> None:
    assert publish("cli:2", "n", "-", input=b'["piped"]\n').exit_code == 0
    assert publish("cli:2", "n").exit_code == 0
    assert [publication.data for publication in kept("cli:2")] == [b'["piped"]', b"null"]


def test_json_names_the_publication() -> None:
    shown = json.loads(publish("cli:3", "n", "1", "--json").stdout)
    assert shown == {"room": "cli:3", "event": "n", "id": shown["id"]}
    assert shown["id"].endswith(":1")


def test_a_key_is_published_once() -> None:
    first, second = (publish("cli:4", "n", "1", "--key", "k").stdout for _ in range(2))
    assert first == second != ""
    assert len(kept("cli:4")) == 1


def test_who_publishes_and_who_is_left_out() -> None:
    assert publish("cli:5", "n", "1", "--user", "ann", "--exclude", "tab-000001").exit_code == 0
    (publication,) = kept("cli:5")
    assert publication.user == "ann"
    assert publication.excludes("ann", "tab-000001")
    assert not publication.excludes("bob", "tab-000001")


def test_an_ephemeral_event_is_not_kept() -> None:
    result = publish("cli:6", "n", "--ephemeral")
    assert (result.exit_code, result.stdout) == (0, "")
    assert kept("cli:6") == []
    assert json.loads(publish("cli:6", "n", "--ephemeral", "--json").stdout)["id"] is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("", "n"), "no room name"),
        (("r", "ack"), "belongs to the protocol"),
        (("r", "n", "{"), "DATA is not JSON"),
        (("r", "n", "NaN"), "NaN is not JSON"),
        (("r", "n", "[1e999]"), "1e999 is beyond what a double holds"),
        (("r", "n", "[" * 100_000), "DATA is not JSON"),
        (("r", "n", "-"), "DATA is not JSON"),
        (("r", "n", '"\\ud800"'), "surrogate"),
        (("r", "n", "--exclude", "x"), "no client's id"),
        (("r", "n", "--config", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_wrong_input_is_2(arguments: tuple[str, ...], text: str) -> None:
    result = publish(*arguments, input=b"\xff")
    assert (result.exit_code, result.stdout) == (2, "")
    assert text in result.stderr


def test_memory_is_2_with_what_to_do(folder: Path) -> None:
    (folder / "roomwire.toml").write_text("")
    result = publish("r", "n")
    assert result.exit_code == 2
    assert 'backplane.type (or ROOMWIRE_BACKPLANE__TYPE): "memory" lives within one process' in result.stderr


def test_what_failed_is_1_with_the_key_to_try_again_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "roomwire.toml").write_text('[backplane]\ntype = "tests.publisher.test_command:FailingBackplane"\n')
    monkeypatch.setattr("roomwire.publisher._async._FIRST_PAUSE", 1e9)  # the first wait is longer than the patience
    monkeypatch.setattr(FAULTS, "kinds", ["lost"])
    result = publish("cli:7", "n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"it may have been stored; try again with --key {FAULTS.keys[-1]}" in result.stderr
