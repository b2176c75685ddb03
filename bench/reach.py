"""A datagram, and the connection that it opens: how long that takes, and whether it happens."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

EACH_S = 0.00025  # from one attempt to connect to the next, in a measurement of time
GENTLY_S = 0.02  # in a count of who gets in
FIRST_REPEAT_S = 0.9  # an attempt lives no longer, so that TCP repeats no SYN (after a second)


class Service(NamedTuple):
    """What is knocked for: the server, its port for the datagrams, and the hidden TCP port."""

    address: str
    knock_port: int
    port: int = 22


def reach_ms(service: Service, source: str, datagram: bytes, patience_s: float, each_s: float) -> float | None:
    """Send the datagram and connect at once, then again every `each_s`; the first connection counts.

    Gives the milliseconds from the datagram to it, or None after `patience_s`. Each attempt is one SYN.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        start_s = time.perf_counter()
        sender.sendto(datagram, (service.address, service.knock_port))
        connected_s = _connected_s(service, source, start_s + patience_s, each_s)
    return None if connected_s is None else (connected_s - start_s) * 1000


def let_in(service: Service, source: str, datagrams: Iterable[Callable[[], bytes]], patience_s: float) -> int:
    """Send one datagram after the other until a connection is made; gives which was it, from 1 on, or 0 for none."""
    for number, make in enumerate(datagrams, 1):
        if reach_ms(service, source, make(), patience_s, GENTLY_S) is not None:
            return number
    return 0


def _connected_s(service: Service, source: str, until_s: float, each_s: float) -> float | None:
    attempts: dict[int, socket.socket] = {}
    with select.epoll() as waiting:
        try:
            next_s = time.perf_counter()
            while (now_s := time.perf_counter()) < until_s:
                if now_s >= next_s:
                    attempt = _attempt(service, source)
                    attempts[attempt.fileno()] = attempt
                    waiting.register(attempt, select.EPOLLOUT)
                    next_s += each_s
                select.select(
                    [waiting], [], [], max(0.0, next_s - time.perf_counter())
                )  # epoll's own waits are whole ms
                for handle, _ in waiting.poll(0):
                    if not attempts[handle].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        return time.perf_counter()
                    waiting.unregister(handle)  # refused
        finally:
            for attempt in attempts.values():
                attempt.close()
    return None


def _attempt(service: Service, source: str) -> socket.socket:
    attempt = socket.socket()
    attempt.setblocking(False)
    attempt.bind((source, 0))
    attempt.connect_ex((service.address, service.port))
    return attempt
