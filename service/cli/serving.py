"""Runs the product under uvicorn."""

import contextlib
import functools
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from service.config import Settings
from service.container import build
from service.core.clock import SystemClock
from service.core.condition.shutdown import Shutdown
from service.lifecycle import Container
from service.logs import configure_logging
from service.main import create_app

KEEP_ALIVE_SECONDS = 75
"""Longer than clients and proxies keep idle connections: who closes first must be the one that would send next."""


class PortTaken(Exception):
    """Somebody else listens there already."""


class NotStarted(Exception):
    """Something failed before the first request could be answered; the log has it."""


class _Server(uvicorn.Server):
    """Ends with exit code 0 when it is asked to end: uvicorn would let the signal kill it after all was done."""

    def __init__(self, config: uvicorn.Config, shutdown: Shutdown) -> None:
        super().__init__(config)
        self._shutdown = shutdown

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        # What a start leaves behind lives as long as the process: no collection need walk through it again.
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._shutdown.begin()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A listener of our own: nobody else may be there already."""
    return bound(host, port, socket.SO_REUSEADDR)


def bound(host: str, port: int, option: int) -> socket.socket:
    """A socket at that address, bound under *option*.

    Raises:
        PortTaken: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as failure:
        listener.close()
        raise PortTaken(f"cannot listen on {host}:{port}: {failure.strerror}") from None
    return listener


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """The server that the product runs under."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.broker_trusted_proxies),
        forwarded_allow_ips=list(settings.broker_trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.broker_drain_seconds)),
    )


def serve_until_stopped(
    settings: Settings,
    *,
    make: Callable[..., Container] = build,
    listen: Callable[[str, int], socket.socket] = listen,
) -> None:
    """Answer requests until SIGTERM or SIGINT; tests pass a *make* that replaces parts, the bench its own *listen*.

    Raises:
        PortTaken: before anything was started.
        NotStarted: what had been begun has been ended.
    """
    configure_logging(settings.broker_log_level, settings.broker_log_format)
    listener = listen(settings.broker_host, settings.broker_port)
    shutdown = Shutdown(settings.drain, SystemClock())
    config = server_config(create_app(settings, make=functools.partial(make, shutdown=shutdown)), settings)
    try:
        _Server(config, shutdown).run(sockets=[listener])
    except SystemExit:
        raise NotStarted("could not start; the log says why") from None
