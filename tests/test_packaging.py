"""What is shipped is whole: the wheel has every file that is needed at run time, and nothing else."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = {
    path.relative_to(ROOT / "src").as_posix()
    for path in [*(ROOT / "src" / "roomwire").rglob("*"), ROOT / "src" / "_roomwire_pytest.py"]
    if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
}


def build(target: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it out."""
    directory = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture(scope="module")
def dist_info(installed: Path) -> Path:
    (directory,) = installed.glob("*.dist-info")
    return directory


def test_the_wheel_has_all_of_the_package_and_nothing_else(installed: Path) -> None:
    shipped = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert {name for name in shipped if ".dist-info/" not in name} == SOURCES


def test_the_package_is_typed(installed: Path) -> None:
    assert (installed / "roomwire" / "py.typed").is_file()


def test_the_version_is_told_once(installed: Path, dist_info: Path) -> None:
    metadata = email.message_from_string((dist_info / "METADATA").read_text())
    assert metadata["Version"] == PROJECT["version"]
    assert PROJECT["version"] in run(installed, "from roomwire.cli import main; main(['version'])")


def test_the_metadata_is_what_users_read(dist_info: Path) -> None:
    metadata = email.message_from_string((dist_info / "METADATA").read_text())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert (dist_info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_command_leads_to_a_function_of_the_wheel(installed: Path, dist_info: Path) -> None:
    entries = ConfigParser()
    entries.read(dist_info / "entry_points.txt")
    module, _, function = entries["console_scripts"]["roomwire"].partition(":")
    program = f"import {module} as m; print(m.__file__); assert callable(m.{function})"
    assert run(installed, program).startswith(str(installed))


def test_every_module_comes_up_from_the_wheel(installed: Path) -> None:
    """Without the source tree, which an editable install would find: a file that was left out is missed."""
    modules = sorted(
        re.sub(r"/", ".", name.removesuffix(".py")).removesuffix(".__init__")
        for name in SOURCES
        if name.endswith(".py") and "/templates/" not in name and not name.endswith("__main__.py")
    )
    program = (
        "import importlib\n"
        f"found = [importlib.import_module(name).__file__ for name in {modules!r}]\n"
        f"print([file for file in found if not file.startswith({str(installed)!r})])"
    )
    assert run(installed, program).strip() == "[]"


def run(installed: Path, program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdist_can_build_the_package(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in SOURCES} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    strange = ("node_modules", "__pycache__", ".venv", ".hypothesis", ".mypy_cache", ".git")
    assert [name for name in names if any(part in strange for part in Path(name).parts)] == []
