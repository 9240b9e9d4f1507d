"""The NATS backplane: JetStream keeps what rooms publish, core NATS carries it, a bucket holds the leases.

options.py    what can be set
client.py     one connection to one server          link.py      connected as long as it can be; questions
wire.py       bodies, headers, times                subjects.py  all names
jetstream.py  JetStream's requests                  flights.py   one question for many
streams.py    the streams, and their lives          rooms.py     publishing, hearing, the position check
history.py    pages, and whether they are proven    kv.py        leases with a time to live
leases.py     presence and slots                    replies.py   what is remembered of messages
agreement.py  the policies of all nodes             backplane.py the whole
"""

from __future__ import annotations

from roomwire.backplanes.nats.backplane import NatsBackplane
from roomwire.backplanes.nats.options import NatsOptions

__all__ = ["NatsBackplane", "NatsOptions", "Options"]

Options = NatsOptions
