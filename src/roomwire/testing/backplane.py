"""The backplane contract as a test suite, for adapters of any origin.

Subclass it in a test module, with the fixture ``make_backplane`` and whatever else your store needs::

    class TestMyBackplane(BackplaneConformance):
        @pytest.fixture
        async def make_backplane(self):
            async def make():
                return MyBackplane(MyOptions(url=...))    # another node of the same store, not started

            return make

The store is empty, or a new name space, for each test. Tests run under anyio's pytest plugin, on
every backend of the fixture ``anyio_backend``; override that one for an adapter of asyncio only.
Further fixtures are optional:

- ``advance``, a coroutine function that lets seconds pass for the store (default: it waits for them);
- ``faults``, an object as `Faults` describes it, for the half of the suite that breaks links.

The suite's parts are classes too, for a store of which several versions are tried.
What a backplane cannot do is said by its ``capabilities``; tests of it are skipped, with the reason.
The suite needs pytest and anyio, and nothing else.
"""

from __future__ import annotations

import pytest

# Before the import: rewriting is what makes a failed assertion say why.
for _module in ("base", "streams", "leases", "faults"):
    pytest.register_assert_rewrite(f"roomwire.testing._backplane_{_module}")

from roomwire.testing._backplane_base import (  # noqa: E402  see above
    Advance,
    Base,
    Delivery,
    Faults,
    MakeBackplane,
    Recorder,
)
from roomwire.testing._backplane_faults import BrokenLinks  # noqa: E402
from roomwire.testing._backplane_leases import Control, Presence, Replies, Slots  # noqa: E402
from roomwire.testing._backplane_streams import Histories, Streams  # noqa: E402

__all__ = [
    "Advance",
    "BackplaneConformance",
    "Base",
    "BrokenLinks",
    "Control",
    "Delivery",
    "Faults",
    "Histories",
    "MakeBackplane",
    "Presence",
    "Recorder",
    "Replies",
    "Slots",
    "Streams",
]


class BackplaneConformance(Streams, Histories, Presence, Slots, Replies, Control, BrokenLinks):
    """The whole suite; see the module's text, and `Base` for the attributes that may be set."""
