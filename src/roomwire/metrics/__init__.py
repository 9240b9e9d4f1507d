"""Metrics: what a node counts and times, for Prometheus.

families.py   what there is: names, kinds, labels
reading.py    their values, read from a node when it is asked
page.py       the answer to ``/metrics``; alone imports prometheus-client
port.py       a port of its own for it
"""

from roomwire.metrics.families import FAMILIES, Family
from roomwire.metrics.page import attach

__all__ = ["FAMILIES", "Family", "attach"]
