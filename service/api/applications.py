"""Applications, for operators: add, look at, change, make default, forget. The decisions are the core's."""

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Response

from service.api.admin import Admin, Name, Page, administrator, named, page_of
from service.api.admin_schemas import ApplicationChanges, DefaultChoice, NewApplication
from service.api.admin_views import ApplicationPage, ApplicationView, application_view
from service.api.deps import House, body, body_schema
from service.core.access.registration import Registration, RegistrationChanges
from service.core.model import Application, GrantType
from service.core.services import Services

router = APIRouter(tags=["applications"])


@router.get("/applications", operation_id="list_applications", summary="All applications")
async def list_applications(house: House, page: Page) -> ApplicationPage:
    """A page of applications by name, with the one from the settings; never their secrets."""
    await house.directory.catch_up()
    shown, cursor = page_of(house.directory.applications, page)
    return ApplicationPage(items=[_shown(house, application) for application in shown], next_cursor=cursor)


@router.post(
    "/applications",
    operation_id="add_application",
    summary="Add an application",
    status_code=201,
    openapi_extra=body_schema(NewApplication),
)
async def add_application(
    house: House, _admin: Admin, new: Annotated[NewApplication, Depends(body(NewApplication, administrator))]
) -> ApplicationView:
    """It serves requests that name it, and those that name none where no other application does yet."""
    application = await house.administration.add_application(Registration(**dict(new)))
    return _shown(house, application)


@router.get("/applications/{name}", operation_id="get_application", summary="One application")
async def get_application(house: House, name: Name) -> ApplicationView:
    """The registration; never its secret."""
    await house.directory.catch_up()
    return _shown(house, house.directory.application(name))


@router.patch(
    "/applications/{name}",
    operation_id="change_application",
    summary="Change an application, its client secret above all",
    openapi_extra=body_schema(ApplicationChanges),
)
async def change_application(
    house: House, name: Name, changes: Annotated[ApplicationChanges, Depends(body(ApplicationChanges, named))]
) -> ApplicationView:
    """A new client secret is used from the next renewal on, and every grant stays as it is.

    Another client id or token URL is another registration for the provider: grants that were issued to the old one
    answer `client_rejected` until it is put back or their users connect again.
    """
    given = cast(RegistrationChanges, {field: getattr(changes, field) for field in changes.model_fields_set})
    return _shown(house, await house.administration.change_application(name, given))


@router.delete(
    "/applications/{name}",
    operation_id="remove_application",
    summary="Forget an application",
    status_code=204,
)
async def remove_application(house: House, name: Name) -> Response:
    """Its grants stay, and work again when it is added again with the same client id and token URL."""
    await house.administration.remove_application(name)
    return Response(status_code=204)


@router.put(
    "/applications/{name}/default",
    operation_id="set_default_application",
    summary="Let an application serve requests that name none",
    openapi_extra=body_schema(DefaultChoice, required=False),
)
async def set_default_application(
    house: House,
    name: Name,
    choice: Annotated[DefaultChoice, Depends(body(DefaultChoice, named, optional=True))],
) -> ApplicationView:
    """For each of the grant types, in place of the application that did so before."""
    await house.administration.set_default(name, choice.grant_types)
    return _shown(house, house.directory.application(name))


def _shown(house: Services, application: Application) -> ApplicationView:
    name, directory = application.name, house.directory
    default_for = [kind for kind in GrantType if directory.default_name(kind) == name]
    return application_view(application, from_settings=directory.is_from_settings(name), default_for=default_for)
