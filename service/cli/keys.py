"""`token-broker keys`: the keys that seal what is stored."""

import base64
import json
import os
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from service.cli.running import FAILED, USAGE, fail, print_table, run_with_container
from service.core.names import KEY_ID
from service.core.sealing.inventory import Inventory
from service.core.sealing.rotation import BATCH, PER_SECOND, AnotherKey, Outcome, Pace
from service.forms import KEY_BYTES
from service.lifecycle import Container

keys = typer.Typer(help="The keys that seal what is stored.", no_args_is_help=True)


AS_FAR_AS = (
    "Seen from here: this database, this machine's escrow folder, and Redis if there is one. "
    "It holds once every broker runs with these keys in this order."
)


@keys.command("generate")
def generate(
    key_id: Annotated[str | None, typer.Option("--id", help="The id; omitted, a random one.")] = None,
) -> None:
    """Print a new entry for BROKER_ENCRYPTION_KEYS: id:base64."""
    key_id = f"k{secrets.token_hex(4)}" if key_id is None else key_id
    if not KEY_ID.fullmatch(key_id):
        fail("an id has 1 to 32 letters, digits, dots, dashes or underscores", USAGE)
    typer.echo(f"{key_id}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}")


@keys.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show what is sealed with which key, and which key may go; exit code 1 when a key is missing here."""

    async def work(container: Container) -> Inventory:
        return await container.rotation.status()

    found = run_with_container(work)
    if as_json:
        typer.echo(json.dumps(_document(found), indent=2, ensure_ascii=False))
    else:
        _print_keys(found)
        typer.echo()
        print_table(_secret_rows(found), as_json=False)
        typer.echo(f"\n{AS_FAR_AS}")
    for place in found.not_asked:
        typer.echo(f"token-broker: what waits in {place} is not known", err=True)
    _tell_strangers(found)
    raise typer.Exit(FAILED if found.strangers else 0)


@keys.command("rotate")
def rotate(
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Secrets in one transaction.")] = BATCH,
    per_second: Annotated[int, typer.Option(min=1, help="Secrets a second at most.")] = PER_SECOND,
) -> None:
    """Seal everything anew under the first key while brokers serve; exit code 0 when every other key may go."""

    async def work(container: Container) -> tuple[Outcome, Inventory] | str:
        try:
            outcome = await container.rotation.run(Pace(batch, per_second))
        except AnotherKey as another:
            return str(another)
        return outcome, await container.rotation.status()

    ended = run_with_container(work)
    if isinstance(ended, str):
        fail(ended)
    outcome, found = ended
    for kind, count in sorted(outcome.resealed.items()):
        typer.echo(f"sealed anew: {kind}: {count}")
    _print_keys(found)
    typer.echo(f"\n{AS_FAR_AS}")
    for (kind, key_id), count in sorted(outcome.stuck.items(), key=str):
        typer.echo(f"token-broker: left as they are, they do not open: {kind}: {count} ({key_id})", err=True)
    if outcome.came_back:
        typer.echo("token-broker: older keys still seal: does every broker run with the new one first?", err=True)
    _tell_strangers(found)
    held = any(found.obstacle(key_id) for key_id in found.key_ids[1:])
    raise typer.Exit(FAILED if outcome.stuck or outcome.came_back or found.strangers or held else 0)


def _print_keys(found: Inventory) -> None:
    print_table([{**row, "may_go": "yes" if row["may_go"] else "no"} for row in _key_rows(found)], as_json=False)


def _tell_strangers(found: Inventory) -> None:
    for held in found.strangers:
        what = "no key" if held.key_id is None else f"the key {held.key_id}, which is not configured here"
        typer.echo(f"token-broker: {held.what}: {held.count} name {what}", err=True)


def _key_rows(found: Inventory) -> list[dict[str, Any]]:
    """Every key by id: what it does, and whether it may go."""
    rows: list[dict[str, Any]] = []
    for key_id in found.key_ids:
        obstacle, count = found.obstacle(key_id), found.count(key_id)
        use = "seals" if key_id == found.key_ids[0] else "opens" if count else "unused"
        rows.append({"key": key_id, "use": use, "secrets": count, "may_go": obstacle is None})
        rows[-1]["because"] = obstacle or "nothing is sealed with it"
    return rows


def _secret_rows(found: Inventory) -> list[dict[str, Any]]:
    return [
        {"what": held.what, "key": held.key_id, "count": held.count, "oldest_at": _instant(held.oldest_at)}
        for held in found.holdings
    ]


def _document(found: Inventory) -> dict[str, Any]:
    return {"keys": _key_rows(found), "secrets": _secret_rows(found), "not_asked": list(found.not_asked)}


def _instant(at: datetime | None) -> str | None:
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
