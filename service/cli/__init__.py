"""The command line: serve, migrate, and manage what the database holds."""

import sys
from typing import Annotated

import typer

from service import __version__
from service.cli.applications import applications
from service.cli.callers import callers
from service.cli.grants import grants
from service.cli.keys import keys
from service.cli.running import fail, run_with_container, settings_or_exit

app = typer.Typer(
    name="token-broker",
    help="Hands out valid Versature access tokens to internal services.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(applications, name="applications")
app.add_typer(callers, name="callers")
app.add_typer(grants, name="grants")
app.add_typer(keys, name="keys")


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_tell_version),
    ] = False,
) -> None:
    """Hands out valid Versature access tokens to internal services."""


@app.command()
def serve() -> None:
    """Run the broker until SIGTERM or Ctrl-C; SQLite migrates itself."""
    from service.cli.serving import NotStarted, PortTaken, serve_until_stopped

    try:
        serve_until_stopped(settings_or_exit())
    except (PortTaken, NotStarted) as failure:
        fail(str(failure))


@app.command()
def migrate() -> None:
    """Bring the database's schema to this version."""
    from service.adapters.sql_migrations import migrate as run_migrations
    from service.lifecycle import Container

    async def work(container: Container) -> None:
        await run_migrations(container.database)

    run_with_container(work, on_empty_database=True)
    typer.echo("The schema is up to date.", err=True)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Look at everything that the broker needs and say what to do; changes nothing. 0 all is well, 1 it is not."""
    from service.cli.doctor import examine_everything

    examine_everything(as_json)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document; needs no settings."""
    import json

    from service.api.application import build_api

    sys.stdout.write(json.dumps(build_api("all").openapi(), indent=2, ensure_ascii=False) + "\n")
