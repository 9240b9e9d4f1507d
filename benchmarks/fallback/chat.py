"""The node's own part: nothing is asked of it here."""

from __future__ import annotations

from roomwire import App

app = App()
