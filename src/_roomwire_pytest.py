"""roomwire's pytest plugin: its options, and nothing else until they are used.

pytest imports it in every run of an environment that has roomwire. So it stands beside the package and not in it,
imports none of it, and registers the fixtures only where a project asks for them.
"""

from __future__ import annotations

import pytest

_OPTIONS = {
    "roomwire_app": "the application under test, as module:attribute; by default the app of roomwire_config",
    "roomwire_config": "the configuration file of the server under test, relative to pytest's root directory",
    "roomwire_fixtures": "plain (client, async_client, server, token), prefixed (roomwire_client and so on) or off",
    "roomwire_scope": "scope of the server: function (default), class, module, package or session",
    "roomwire_timeout": "seconds that an operation of a test client may take (default: 5)",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of the configuration file."""
    for name, text in _OPTIONS.items():
        parser.addini(name, text, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures, where the project wants them."""
    wanted = config.getini("roomwire_fixtures")
    if wanted == "off" or not (wanted or config.getini("roomwire_app") or config.getini("roomwire_config")):
        return
    from roomwire.testing._plugin import activate

    activate(config)
