"""What users and the authors of plugins import in their tests.

`roomwire.testing.backplane` is the backplane contract as a suite, `roomwire.testing.clock` a clock that
stands still. The modules are imported one by one, since not all of them can do without pytest.
"""

from __future__ import annotations
