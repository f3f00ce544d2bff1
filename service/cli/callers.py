"""`token-broker callers`: internal services and their keys."""

from typing import Annotated

import typer

from service.cli.running import print_table, run_with_container
from service.core.model import Caller, Scope
from service.lifecycle import Container

callers = typer.Typer(help="Internal services and their API keys.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The caller's name.")]


@callers.command("add")
def add(
    name: Name,
    scope: Annotated[list[Scope], typer.Option(help="tokens, grants or admin; repeatable.")],
    user: Annotated[list[str] | None, typer.Option(help="Pattern of users; repeatable. * never includes @company.")] = (
        None
    ),
    application: Annotated[list[str] | None, typer.Option(help="Pattern of applications; repeatable.")] = None,
) -> None:
    """Add a caller and print its key, this once."""
    caller = Caller(name, frozenset(scope), tuple(user or ()), tuple(application or ("*",)))

    async def work(container: Container) -> str:
        return (await container.services.administration.add_caller(caller)).secret

    typer.echo(run_with_container(work))
    typer.echo("This key is shown only once.", err=True)


@callers.command("list")
def list_callers(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List all callers; never their keys."""

    async def work(container: Container) -> list[dict[str, object]]:
        await container.services.directory.check()
        return [
            {
                "name": caller.name,
                "scopes": sorted(caller.scopes),
                "users": list(caller.users),
                "applications": list(caller.applications),
            }
            for caller in container.services.directory.callers
        ]

    print_table(run_with_container(work), as_json=as_json)


@callers.command("remove")
def remove(name: Name) -> None:
    """Forget a caller; its keys stop working everywhere within BROKER_LOCAL_CACHE_SECONDS."""

    async def work(container: Container) -> None:
        await container.services.administration.remove_caller(name)

    run_with_container(work)
    typer.echo(f"Removed the caller {name}.", err=True)


@callers.command("rotate-key")
def rotate_key(
    name: Name,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Let the old key work beside the new one.")] = False,
) -> None:
    """Replace a caller's keys and print the new one, this once."""

    async def work(container: Container) -> str:
        administration = container.services.administration
        issued = await (administration.add_key(name) if keep_old else administration.rotate_key(name))
        return issued.secret

    typer.echo(run_with_container(work))
    typer.echo("This key is shown only once.", err=True)
