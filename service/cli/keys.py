"""`token-broker keys`: the keys that seal what is stored."""

import base64
import os
import secrets
from typing import Annotated

import typer

from service.cli.running import USAGE, fail
from service.forms import KEY_BYTES, KEY_ID

keys = typer.Typer(help="The keys that seal what is stored.", no_args_is_help=True)


@keys.callback()
def _group() -> None:
    """Keep `generate` a command of its own: a group of one would swallow its name."""


@keys.command("generate")
def generate(
    key_id: Annotated[str | None, typer.Option("--id", help="The id; omitted, a random one.")] = None,
) -> None:
    """Print a new entry for BROKER_ENCRYPTION_KEYS: id:base64."""
    key_id = f"k{secrets.token_hex(4)}" if key_id is None else key_id
    if not KEY_ID.fullmatch(key_id):
        fail("an id has 1 to 32 letters, digits, dots, dashes or underscores", USAGE)
    typer.echo(f"{key_id}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}")
