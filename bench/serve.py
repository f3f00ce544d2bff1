"""`python -m bench.serve bare|ordinary|replica`: something to measure, under the very server of the product.

Standard input has, as JSON, what it needs; a replica is the product itself on a port that it shares with others.
"""

import base64
import json
import socket
import sys
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from bench.opponents import bare, ordinary
from service.cli.serving import bound, serve_until_stopped, server_config
from service.config import load_settings


def shared(host: str, port: int) -> socket.socket:
    """One of several listeners on the same port; the system deals the connections out."""
    return bound(host, port, socket.SO_REUSEPORT)


def opponent(kind: str, given: dict[str, Any]) -> ASGIApp:
    if kind == "ordinary":
        return ordinary(given["redis_url"], given["key"])
    headers = [(name.encode(), value.encode()) for name, value in given["headers"]]
    return bare(headers, base64.b64decode(given["body"]))


def main() -> None:
    kind, settings = sys.argv[1], load_settings()
    if kind == "replica":
        serve_until_stopped(settings, listen=shared)
        return
    app = opponent(kind, json.load(sys.stdin))
    listener = bound(settings.broker_host, settings.broker_port, socket.SO_REUSEADDR)
    config = server_config(app, settings)
    config.lifespan = "auto"
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
