"""A way for the application to hang up on its client, which ASGI itself does not offer."""

import asyncio
import logging
import socket
import struct
from typing import Final

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_EXTENSION: Final = "sandbox.connection"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all

_logger: Final = logging.getLogger("sandbox.connection")
_logger.setLevel(logging.CRITICAL)


class HangUpProtocol(HttpToolsProtocol):
    """uvicorn's protocol that also hands its transport to the application, for `hang_up`.

    It is silent, with a logger of its own: another uvicorn in this process keeps the logging it has.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin a connection as uvicorn does, but silently."""
        self.logger = _logger
        self.access_log = False
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """Begin a request as uvicorn does, then add the transport to its scope."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}


async def hang_up(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """Close the connection of this request; with *reset* by RST at once, else after what was sent has gone out.

    Raises:
        ConnectionResetError: the application is not served over a `HangUpProtocol`; the caller of an in-process
            transport then sees this error in place of a lost connection.
    """
    extension = scope.get("extensions", {}).get(_EXTENSION)
    if extension is None:
        raise ConnectionResetError("the sandbox hung up")
    transport: asyncio.Transport = extension["transport"]
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    else:
        transport.close()
    # uvicorn must have noticed before the application returns, or it would try to answer in our place.
    while (await receive())["type"] != "http.disconnect":
        continue
