"""The configuration: typed settings, and the sources that they come from.

settings.py   the sections, their keys and defaults, and the checks across keys
problems.py   what is wrong with a setting, as a line that says where and what to do
_sources.py   roomwire.toml, pyproject.toml, .env, environment and flags, each as a layer of values
_loading.py   layers merged, references resolved, names checked, and validated
_showing.py   the effective settings with their sources, and without their secrets
"""

from __future__ import annotations

from roomwire.config._keys import is_secret_name
from roomwire.config._loading import Loaded, load
from roomwire.config._showing import ShownSetting
from roomwire.config._sources import Origin
from roomwire.config.problems import Problem, config_error, explain, format_key, nearest
from roomwire.config.settings import (
    ApiSettings,
    AuthSettings,
    BackplaneSettings,
    LoggingSettings,
    MetricsSettings,
    ServerSettings,
    Settings,
)

__all__ = [
    "ApiSettings",
    "AuthSettings",
    "BackplaneSettings",
    "Loaded",
    "LoggingSettings",
    "MetricsSettings",
    "Origin",
    "Problem",
    "ServerSettings",
    "Settings",
    "ShownSetting",
    "config_error",
    "explain",
    "format_key",
    "is_secret_name",
    "load",
    "nearest",
]
