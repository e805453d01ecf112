"""A wall round the process that runs models: it opens no socket to the network, and one that tries is ended at once.

By the kernel's own filter (seccomp(2), seccomp_filter.rst), which needs no right of its own and holds for native code
as for Python, for every thread, and for whatever the process starts. What a model reads could otherwise leave by it.

It is a wall against a model that calls home, by intent or by a library's habit. It does not keep code that means harm
from what else its user may do (files, other processes of the same user): the container and the firewall do.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

STATUS: Final = -31
"""How a process that tried has ended, as subprocess tells it: by SIGSYS."""

_AF_UNIX, _AF_NETLINK = 1, 16  # within the machine, as GPU drivers use them
_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 41, 317), "aarch64": (0xC00000B7, 198, 277)}
"""AUDIT_ARCH_* (linux/audit.h), the numbers of socket(2) and of seccomp(2)."""
_IO_URING_SETUP: Final = 425  # on both; opens sockets past socket(2)
_X32_BIT: Final = 0x40000000  # a second numbering of the same calls on x86_64

_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _TSYNC = 38, 1, 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # classic BPF: ld [k], jeq, jge, ret
_ALLOW, _KILL_PROCESS, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | 38
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # in struct seccomp_data


def raise_wall(machine: str = platform.machine()) -> None:
    """From now on this process has no network. Raises OSError where there is no such filter."""
    if machine not in _ARCHITECTURES:
        raise OSError(f"no wall against the network is known on {machine}")
    architecture, socket_call, seccomp_call = _ARCHITECTURES[machine]
    code = b"".join(struct.pack("<HBBI", *one) for one in _program(architecture, socket_call))
    filters = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _failed("prctl")
    # Every thread, those included that libraries started when they were imported.
    if libc.syscall(ctypes.c_long(seccomp_call), _SET_MODE_FILTER, _TSYNC, program) != 0:
        raise _failed("seccomp")


def _program(architecture: int, socket_call: int) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, k) of struct sock_filter."""
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 8, architecture),  # another ABI would have other numbers: end
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 6, 0, _X32_BIT),
        (_EQUAL, 6, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 3, socket_call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, _AF_UNIX),
        (_EQUAL, 0, 1, _AF_NETLINK),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_RETURN, 0, 0, _ENOSYS),
    ]


def _failed(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"no wall against the network: {call}: {os.strerror(number)}")
