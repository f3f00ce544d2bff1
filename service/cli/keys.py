"""`token-broker keys`: the keys that seal what is stored."""

import base64
import os
import secrets
from typing import Annotated

import typer

from service.config import KEY_BYTES

keys = typer.Typer(help="The keys that seal what is stored.", no_args_is_help=True)


@keys.callback()
def _group() -> None:
    """Keep `generate` a command of its own: a group of one would swallow its name."""


@keys.command("generate")
def generate(
    key_id: Annotated[str | None, typer.Option("--id", help="The id; omitted, a random one.")] = None,
) -> None:
    """Print a new entry for BROKER_ENCRYPTION_KEYS: id:base64."""
    typer.echo(f"{key_id or 'k' + secrets.token_hex(4)}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}")
