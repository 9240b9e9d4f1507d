"""Import strings, and which part of one failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomwire import App
from roomwire.cli._application import directory_of, load_app
from roomwire.core.errors import ConfigError
from tests.cli.conftest import Project


class TestLoading:
    @pytest.mark.parametrize("target", ["chatapp:app", "chatapp:Namespace.app"])
    def test_an_application(self, project: Project, target: str) -> None:
        assert isinstance(load_app(target, app_dir=Path()), App)

    def test_a_factory(self, project: Project) -> None:
        assert isinstance(load_app("chatapp:make", app_dir=Path(), factory=True), App)

    def test_from_another_folder(self, project: Project) -> None:
        (project.folder / "src").mkdir()
        (project.folder / "chatapp.py").rename(project.folder / "src" / "chatapp_there.py")
        assert isinstance(load_app("chatapp_there:app", app_dir=Path("src")), App)
        assert directory_of("chatapp_there:app") == project.folder / "src"

    def test_the_folder_of_nothing(self) -> None:
        assert directory_of("chatapp_nowhere:app") is None


class TestFaults:
    @pytest.mark.parametrize(
        ("target", "factory", "message"),
        [
            (None, False, "no application: name it as module:attribute, such as chat:app, or set app in roomwire.toml"),
            ("chatapp", False, 'app: expected "module:attribute", such as "chat:app", found "chatapp"'),
            (":app", False, 'app: expected "module:attribute", such as "chat:app", found ":app"'),
            ("chatap:app", False, 'app "chatap:app": there is no module chatap in {folder}; did you mean "chatapp"?'),
            ("no.where:app", False, 'app "no.where:app": there is no module no in {folder}'),
            ("chatapp:ap", False, 'app "chatapp:ap": the module chatapp has no attribute ap; did you mean "app"?'),
            ("chatapp:app.x", False, 'app "chatapp:app.x": the module chatapp has no attribute x'),
            (
                "chatapp:make",
                False,
                'app "chatapp:make": make is a function, not a roomwire.App:'
                " add --factory where it makes the application",
            ),
            ("chatapp:made", False, 'app "chatapp:made": made is a int, not a roomwire.App'),
            ("chatapp:made", True, 'app "chatapp:made": made is no function: leave out --factory'),
            ("chatapp:app", True, 'app "chatapp:app": app is no function: leave out --factory'),
            ("chatapp:make_nothing", True, 'app "chatapp:make_nothing": make_nothing is a int, not a roomwire.App'),
            (
                "chatapp:fail",
                True,
                'app "chatapp:fail": calling fail failed: RuntimeError: no database ({folder}/chatapp.py, line 27)',
            ),
        ],
    )
    def test_text(self, project: Project, target: str | None, factory: bool, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load_app(target, app_dir=Path(), factory=factory)
        told = str(caught.value).partition("; known: ")[0]
        assert told == message.format(folder=project.folder)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("x = 1\n1 / 0\n", "ZeroDivisionError: division by zero ({folder}/chatapp_bad.py, line 2)"),
            ("def f(:\n", "SyntaxError: invalid syntax ({folder}/chatapp_bad.py, line 1)"),
            (
                "import nowhere_at_all\n",
                "ModuleNotFoundError: No module named 'nowhere_at_all' ({folder}/chatapp_bad.py, line 1)",
            ),
            (
                "from roomwire import App\napp = App()\n\n@app.on('ack')\nasync def f(): ...\n",
                "DeclarationError: 'ack' belongs to the protocol: choose another name"
                " ({folder}/chatapp_bad.py, line 4)",
            ),
        ],
    )
    def test_an_exception_is_told_with_its_line(self, project: Project, source: str, message: str) -> None:
        project.write("chatapp_bad.py", source)
        with pytest.raises(ConfigError) as caught:
            load_app("chatapp_bad:app", app_dir=Path())
        expected = 'app "chatapp_bad:app": importing chatapp_bad failed: ' + message.format(folder=project.folder)
        assert str(caught.value) == expected
