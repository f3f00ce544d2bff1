"""`token-broker grants`: look at, take over, end and revive."""

import json
from typing import Annotated

import typer
from pydantic import ValidationError

from service.api.schemas import GrantImport, grant_status
from service.cli.running import FAILED, USAGE, fail, print_table, read_secret, run_with_container
from service.core.audit_store import Action
from service.core.errors import GrantNotFound
from service.core.model import Application, Grant, GrantId, GrantState, needed_grant_type
from service.core.names import check_user
from service.core.records import GrantFilter
from service.lifecycle import Container

grants = typer.Typer(help="What the broker holds for users.", no_args_is_help=True)

PAGE = 500

User = Annotated[str, typer.Argument(help="The user, or @company.")]
ApplicationName = Annotated[
    str | None, typer.Option("--application", help="Omitted: the default one for the needed grant type.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


async def _locate(container: Container, user: str, application: str | None) -> tuple[Application, GrantId]:
    check_user(user)
    await container.services.directory.check()
    found = container.services.directory.application_for(application, needed_grant_type(user))
    return found, GrantId(found.name, user)


def _shown(container: Container, grant: Grant) -> dict[str, object]:
    """As callers see it, and what logs call its user."""
    shown = grant_status(container.services.broker, grant).model_dump(mode="json")
    return {**shown, "name_in_logs": container.services.audit.name_user(grant.id.user)}


@grants.command("list")
def list_grants(
    application: Annotated[str | None, typer.Option(help="Of this application only.")] = None,
    state: Annotated[GrantState | None, typer.Option(help="In this state only.")] = None,
    as_json: AsJson = False,
) -> None:
    """List all grants; never their tokens."""

    async def work(container: Container) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        after: GrantId | None = None
        services, which = container.services, GrantFilter(application=application, state=state)
        while page := await services.grants.page(which, after=after, limit=PAGE, now=services.clock.now()):
            rows += [_shown(container, grant) for grant in page]
            after = page[-1].id
        return rows

    rows = run_with_container(work)
    columns = ("application", "user", "state", "reason", "generation", "access_expires_at", "retry_at")
    print_table(rows if as_json else [{name: row[name] for name in columns} for row in rows], as_json=as_json)


@grants.command("show")
def show(user: User, application: ApplicationName = None) -> None:
    """Show one grant as JSON; never its tokens."""

    async def work(container: Container) -> dict[str, object]:
        _, grant_id = await _locate(container, user, application)
        grant = await container.services.grants.get(grant_id)
        if grant is None or not grant.exists:
            raise GrantNotFound(grant_id)
        return _shown(container, grant)

    typer.echo(json.dumps(run_with_container(work), indent=2, ensure_ascii=False))


@grants.command("import")
def import_grant(
    user: User,
    refresh_token_stdin: Annotated[bool, typer.Option("--refresh-token-stdin", help="Read the token there.")] = False,
    application: ApplicationName = None,
) -> None:
    """Take over a refresh token that another service holds; it comes on standard input."""
    refresh_token = read_secret(refresh_token_stdin, "--refresh-token-stdin")
    try:
        GrantImport(refresh_token=refresh_token)
    except ValidationError:
        fail("what came on standard input cannot be a refresh token: that is one line of printable ASCII", USAGE)

    async def work(container: Container) -> tuple[GrantState, bool]:
        (found, grant_id), broker = await _locate(container, user, application), container.services.broker
        grant, created = await broker.import_(
            found, grant_id, refresh_token=refresh_token, access_token=None, expires_in=None, scope=None
        )
        return broker.standing(grant)[0], created

    state, created = run_with_container(work)
    if state is not GrantState.CONNECTED:
        fail(f"this refresh token was here before, and its grant is still {state}: the user has to connect", FAILED)
    typer.echo("The grant was created." if created else "The grant was there already.", err=True)


@grants.command("revoke")
def revoke(user: User, application: ApplicationName = None) -> None:
    """End a grant, here at once and at the provider as far as it can be told."""

    async def work(container: Container) -> str:
        return await container.services.broker.revoke(*await _locate(container, user, application))

    typer.echo(f"Revoked; at the provider: {run_with_container(work)}.", err=True)


@grants.command("revive")
def revive(user: User, application: ApplicationName = None) -> None:
    """Let a grant that was declared dead be tried again; the provider has the last word."""

    async def work(container: Container) -> GrantState:
        _, grant_id = await _locate(container, user, application)
        grant = await container.services.grants.revive(grant_id)
        if grant is None or not grant.exists:
            raise GrantNotFound(grant_id)
        await container.services.audit.note(Action.REVIVED, grant=grant_id)
        return container.services.broker.standing(grant)[0]

    state = run_with_container(work)
    if state is not GrantState.CONNECTED:
        fail(f"The grant's state is still {state}: the user must connect again.")
    typer.echo(f"The grant's state is {state}.", err=True)
