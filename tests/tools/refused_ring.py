"""Asks for a ring where a seccomp filter refuses the system calls that it names, and tells what came of it."""

from __future__ import annotations

import ctypes
import errno
import struct
import sys
from collections.abc import Sequence

from roomwire.transports.anyio.ring import SendRing

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def refuse(calls: Sequence[int]) -> None:
    """From now on these system calls come to EPERM, in this process and its children."""
    steps = [(_LOAD, 0, 0), *((_JUMP_IF_EQUAL, len(calls) - n, call) for n, call in enumerate(calls))]
    steps += [(_RETURN, 0, _ALLOW), (_RETURN, 0, _REFUSE)]
    code = b"".join(struct.pack("=HBBI", step, jump, 0, operand) for step, jump, operand in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(held)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def main() -> None:
    refuse([int(call) for call in sys.argv[1:]])
    try:
        SendRing().close()
    except OSError as error:
        print(errno.errorcode[error.errno or 0])
    else:
        print("granted")


if __name__ == "__main__":
    main()
