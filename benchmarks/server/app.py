"""The application that is measured: that of ``roomwire bench``. Here for its configuration beside it."""

from roomwire.bench.app import app

__all__ = ["app"]
