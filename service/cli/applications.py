"""`token-broker applications`: OAuth client registrations."""

from typing import Annotated

import typer

from service.cli.running import print_table, read_secret, run_with_container
from service.core.access.registration import Registration
from service.core.model import GrantType
from service.lifecycle import Container

applications = typer.Typer(help="OAuth client registrations at the provider.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The application's name; it never changes.")]


@applications.command("add")
def add(
    name: Name,
    client_id: Annotated[str, typer.Option(help="The registration's client id.")],
    grant_type: Annotated[list[GrantType], typer.Option(help="What it may do; repeatable.")],
    client_secret_stdin: Annotated[bool, typer.Option("--client-secret-stdin", help="Read the secret there.")] = False,
    base_url: Annotated[str | None, typer.Option(help="API base; omitted, VERSATURE_BASE_URL now.")] = None,
    token_url: Annotated[str | None, typer.Option(help="If not {base}/oauth/token/.")] = None,
    authorize_url: Annotated[str | None, typer.Option(help="If not {base}/oauth/authorize/.")] = None,
    revocation_url: Annotated[
        str | None, typer.Option(help="Where the provider has one (RFC 7009); of the token URL's origin.")
    ] = None,
    oauth_scope: Annotated[str | None, typer.Option(help="Scope to ask for.")] = None,
    vendor_id: Annotated[str | None, typer.Option(help="Sent as vendor_id with every token request.")] = None,
    pkce: Annotated[bool, typer.Option("--pkce", help="Use PKCE with S256 (RFC 7636).")] = False,
) -> None:
    """Add an application; its client secret comes on standard input."""
    registration = Registration(
        name=name,
        client_id=client_id,
        client_secret=read_secret(client_secret_stdin, "--client-secret-stdin"),
        grant_types=frozenset(grant_type),
        base_url=base_url,
        token_url=token_url,
        authorize_url=authorize_url,
        revocation_url=revocation_url,
        oauth_scope=oauth_scope,
        vendor_id=vendor_id,
        pkce=pkce,
    )

    async def work(container: Container) -> None:
        await container.services.administration.add_application(registration)

    run_with_container(work)
    typer.echo(f"Added the application {name}.", err=True)


@applications.command("list")
def list_applications(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List all applications, the one from the settings too; never their secrets."""

    async def work(container: Container) -> list[dict[str, object]]:
        directory = container.services.directory
        await directory.check()
        defaults = {grant_type: directory.default_name(grant_type) for grant_type in GrantType}
        return [
            {
                "name": application.name,
                "client_id": application.client_id,
                "grant_types": sorted(application.grant_types),
                "default_for": sorted(kind for kind, name in defaults.items() if name == application.name),
                "token_url": application.token_url,
            }
            for application in directory.applications
        ]

    print_table(run_with_container(work), as_json=as_json)


@applications.command("remove")
def remove(name: Name) -> None:
    """Forget an application; its grants stay, and work again when it returns."""

    async def work(container: Container) -> None:
        await container.services.administration.remove_application(name)

    run_with_container(work)
    typer.echo(f"Removed the application {name}.", err=True)


@applications.command("set-default")
def set_default(
    name: Name,
    grant_type: Annotated[
        list[GrantType] | None, typer.Option(help="For which grant type; omitted, all it allows.")
    ] = None,
) -> None:
    """Let an application serve the requests that name none."""

    async def work(container: Container) -> None:
        await container.services.administration.set_default(name, frozenset(grant_type) if grant_type else None)

    run_with_container(work)
    typer.echo(f"{name} is the default now.", err=True)
