"""Ports for servers that tests start, from a range that the system gives to nobody by itself."""

import contextlib
import os
import socket
import threading
from collections import deque

_HOST = "127.0.0.1"
_FIRST, _LAST = 20_000, 32_000
"""Below the ports that Linux gives to outgoing connections: one of those could take a port before its server does."""

_KEPT = 256
_reserved: deque[int] = deque()  # descriptors, for sockets would complain at the process's end
_next = _FIRST + os.getpid() * 97 % (_LAST - _FIRST)
_turn = threading.Lock()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on, and that no other process that asks here is given for a while."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of *count* free ports in a row.

    The UDP port of the same number is what tells other processes that it is given away. It is kept until this process
    ends, or has been given many more; by then its server listens.
    """
    global _next  # noqa: PLW0603 - the place in the range belongs to the process, as the ports do
    with _turn:
        while True:
            first = _next
            _next = first + count if first + 2 * count <= _LAST else _FIRST
            if held := _reserve(range(first, first + count)):
                _reserved.extend(held)
                while len(_reserved) > _KEPT:
                    os.close(_reserved.popleft())
                return first


def _reserve(ports: range) -> list[int]:
    """The UDP sockets of *ports*, or none if one of them is somebody else's."""
    with contextlib.ExitStack() as undo:
        held: list[socket.socket] = []
        for port in ports:
            twin = undo.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            with socket.socket() as probe:
                try:
                    twin.bind((_HOST, port))
                    probe.bind((_HOST, port))
                except OSError:
                    return []
            held.append(twin)
        return [twin.detach() for twin in held]
