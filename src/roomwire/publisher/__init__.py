"""Publishing from anything that is not a node: a task queue, a view, a cron job, a notebook, another service.

    from roomwire import Publisher                     # blocking, from any thread

    publisher = Publisher.from_config("roomwire.toml")
    publisher.publish("chat:general", "message.new", {"content": "the report is ready"})

    from roomwire import AsyncPublisher                # within an event loop

    async with AsyncPublisher.from_config("roomwire.toml") as publisher:
        await publisher.publish("chat:general", "message.new", {"content": "the report is ready"})

A publisher talks to the backplane that joins the nodes, with the configuration that the nodes have. It
is in no room, has no presence, and takes no connection.
"""

from __future__ import annotations

from roomwire.publisher._async import AsyncPublisher
from roomwire.publisher._draft import BatchFailed, Draft, PublishFailed
from roomwire.publisher._sync import Publisher

__all__ = ["AsyncPublisher", "BatchFailed", "Draft", "PublishFailed", "Publisher"]
