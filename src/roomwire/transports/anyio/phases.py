"""Where a socket is.

    HEAD      the head of a request is read           the head, whole: DECIDING; answered without a decision: ENDING;
                                                      the fallback's: SERVING
    DECIDING  the node decides, nothing is read       admitted: OPEN; refused: ENDING
    SERVING   the fallback's application answers, or  the first byte of the next one: HEAD; the last answer is
              the connection waits for a request      out: ENDING
    OPEN      messages                                our close frame: CLOSING; the peer's, or its error: ENDING
    CLOSING   our close frame is out, and the peer's  it came: ENDING
              is awaited
    ENDING    all is said and our half is shut down;  the peer has closed, or its time is up: CLOSED
              what still comes is dropped
    CLOSED    the link has ended; every phase may come here

An event stream is a response that goes on while OPEN, and its last bytes are the end of it: it knows no CLOSING.

Why ENDING: to close a socket while the peer still sends resets the link, and a reset takes our last words
with it (RFC 9112 section 9.6). Nothing is written after a close frame (RFC 6455 section 5.5.1), whoever calls
`write`: it does nothing but while OPEN.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Phase"]


class Phase(Enum):
    """Where a socket is; the module's docstring has the table."""

    HEAD = "head"
    DECIDING = "deciding"
    SERVING = "serving"
    OPEN = "open"
    CLOSING = "closing"
    ENDING = "ending"
    CLOSED = "closed"
