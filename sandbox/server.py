"""Serving the sandbox: inside a running event loop for tests, or as a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from sandbox.connection import HangUpProtocol

# Longer than clients keep idle connections, so that none is closed under a request that is just being sent.
_KEEP_ALIVE_SECONDS: Final = 75
_BACKLOG: Final = 2048


@dataclass(frozen=True)
class Running:
    """A served sandbox."""

    host: str
    port: int

    @property
    def base_url(self) -> str:
        """Without a path: the API's base is `{base_url}/api`."""
        return f"http://{self.host}:{self.port}"


@asynccontextmanager
async def running(app: ASGIApp, *, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[Running]:
    """Serve *app* in this event loop, on a free port unless one is given; answers from the first moment on.

    Signals, other servers and their logging are left alone. Leaving ends everything at once: requests in progress are
    cancelled and connections dropped. The application's lifespan events are not sent, for the sandbox has none.

    Raises:
        OSError: the port cannot be had.
    """
    config = _config(app)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()

    def connect() -> asyncio.Protocol:
        return HangUpProtocol(config=config, server_state=state, app_state={}, _loop=loop)

    server = await loop.create_server(connect, host=host, port=port, backlog=_BACKLOG)
    try:
        yield Running(host, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await _end(state)


async def _end(state: ServerState) -> None:
    for connection in list(state.connections):
        connection.transport.abort()
    tasks = list(state.tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # lets the loop close the sockets


def _config(app: ASGIApp) -> uvicorn.Config:
    # Without log settings uvicorn leaves the process's logging as it is.
    return uvicorn.Config(
        app,
        http=HangUpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )


def serve(app: ASGIApp, *, host: str, port: int) -> int:
    """Serve *app* until SIGTERM or SIGINT; returns the exit code: 0, or 1 with a line on stderr for a taken port."""
    try:
        with asyncio.Runner(loop_factory=_config(app).get_loop_factory()) as runner:
            runner.run(_serve_until_signalled(app, host=host, port=port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        sys.stderr.write(f"sandbox: cannot listen on {host}:{port}: {reason}\n")
        return 1
    return 0


async def _serve_until_signalled(app: ASGIApp, *, host: str, port: int) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with running(app, port=port, host=host) as served:
        sys.stdout.write(f"Versature sandbox listening on {served.base_url}\n")
        sys.stdout.flush()
        await stop.wait()
