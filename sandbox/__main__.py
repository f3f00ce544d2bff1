"""`python -m sandbox`: the sandbox as a process."""

import argparse
import sys
from collections.abc import Sequence

from sandbox.app import create_sandbox
from sandbox.directory import CLIENTS, DEFAULT_REDIRECT_URI, USERS
from sandbox.faults import FAULTS
from sandbox.server import serve
from sandbox.switches import DEFAULTS, SwitchError, Switches, read_switches


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit code (0, 1 when the port cannot be had; bad usage exits with 2)."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        switches = read_switches(chosen.switch)
    except SwitchError as error:
        parser.error(str(error))
    app = create_sandbox(switches, redirect_uris=chosen.redirect_uri or [DEFAULT_REDIRECT_URI])
    return serve(app, host=chosen.host, port=chosen.port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="A Versature of our own, for demos and tests. Whoever reaches its port controls it (/sandbox/).",
        epilog="\n\n".join((_switches(), _faults(), _accounts())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8001, help="port to listen on; 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--redirect-uri",
        action="append",
        metavar="URI",
        help=f"registered redirect URI, repeatable (default: {DEFAULT_REDIRECT_URI})",
    )
    parser.add_argument(
        "--switch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="position of a switch at start, repeatable; PATCH /sandbox/switches changes them later",
    )
    return parser


def _switches() -> str:
    positions = DEFAULTS.model_dump(mode="json")
    lines = [
        f"  {name} = {positions[name]}\n      {field.description}" for name, field in Switches.model_fields.items()
    ]
    return "\n".join(["switches and their defaults:", *lines])


def _faults() -> str:
    lines = [
        f"  {name}: {fault.meaning} ({'the server acts first' if fault.acts else 'the server does not act'})"
        for name, fault in FAULTS.items()
    ]
    return "\n".join(["faults of the token endpoint:", *lines])


def _accounts() -> str:
    logins = [f"  {user} / {password}" for user, password in USERS.items()]
    clients = [
        f"  {client.id} / {client.secret} ({', '.join(sorted(client.grant_types))})" for client in CLIENTS.values()
    ]
    return "\n".join(["logins:", *logins, "", "credentials:", *clients])


if __name__ == "__main__":
    sys.exit(main())
