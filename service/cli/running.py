"""What all commands share: settings, a container to work with, errors as one line, JSON out."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import typer

from service.config import Settings, WrongSettings, load_settings
from service.container import build
from service.core.audit import Actor, acting
from service.core.errors import BrokerError, InvalidRequest
from service.lifecycle import Container
from service.logs import configure_logging
from service.telemetry import Metrics

T = TypeVar("T")

COMMAND_LINE = "command line"
"""Who acts, as the audit tells it; no caller's name has a space."""

FAILED = 1
USAGE = 2


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say what went wrong on standard error and leave."""
    typer.echo(f"token-broker: {message}", err=True)
    raise typer.Exit(code)


def settings_or_exit() -> Settings:
    """The settings; when they are wrong, every problem by name and exit code 2."""
    try:
        return load_settings()
    except WrongSettings as wrong:
        for name, problem in sorted(wrong.problems.items()):
            typer.echo(f"token-broker: {name}: {problem}", err=True)
        raise typer.Exit(USAGE) from None


def run_with_container(work: Callable[[Container], Awaitable[T]], *, on_empty_database: bool = False) -> T:
    """Do *work* on the database directly; what the core refuses is one line and exit code 1, malformed arguments 2.

    Nothing is read beforehand where *on_empty_database* says that there may be nothing to read.
    """
    settings = settings_or_exit()
    configure_logging("error", "human")

    async def run() -> T:
        acting.set(Actor(COMMAND_LINE))
        container = build(settings, Metrics(), works_alone=False)
        try:
            if not on_empty_database:
                await container.start()
            return await work(container)
        finally:
            await container.close()

    try:
        return asyncio.run(run())
    except BrokerError as error:
        fail(error.detail, USAGE if isinstance(error, InvalidRequest) else FAILED)


def read_secret(given: bool, option: str) -> str:
    """The secret on standard input, less one trailing newline; *option* says that it comes there."""
    if not given:
        fail(f"give the secret on standard input and say so with {option}", USAGE)
    try:
        secret = sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        fail("standard input is not UTF-8", USAGE)
    if not secret:
        fail("standard input is empty", USAGE)
    return secret


def print_table(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Rows for a program, or aligned for a person."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        typer.echo("none")
        return
    cells = [[str(name) for name in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return "-" if value is None else str(value)
