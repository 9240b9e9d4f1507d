"""Whole clusters: real node processes on real servers, real faults, and an offline check of what every client saw.

Nodes are processes of ``roomwire run``, joined by a Redis or NATS of their own, which each reaches through a link
that can be cut, stalled or made to lose bytes. Clients log what they are told; after a run a pure function over
all logs counts what was lost, doubled, reordered, or not reported. A row is one fault of the promises' table.

The short version of every row is part of the tests; the long one, with the sizes that the promises name, is
``make cluster``, or ``python -m tests.cluster --row kill-node --backplane redis --seed 7``.
"""
