"""A program that forks with an open publisher, as a task queue with worker processes does.

Arguments: the options of a Redis backplane as JSON, and a room. It prints the id of each publication.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from roomwire import Publisher

publisher = Publisher("redis", json.loads(sys.argv[1]))
ROOM = sys.argv[2]


def publish(text: str) -> None:
    # In one piece: threads and processes share the pipe.
    os.write(1, f"{publisher.publish(ROOM, 'told', text).id}\n".encode())


def work(name: str) -> None:
    threads = [threading.Thread(target=publish, args=(f"{name}-{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


publish("before")
children = []
for number in range(2):
    child = os.fork()
    if not child:
        work(f"child-{number}")
        publisher.close()
        os._exit(0)
    children.append(child)
publish("meanwhile")
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
publish("after")
sys.exit(max(codes))
