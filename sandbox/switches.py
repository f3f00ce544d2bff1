"""What can be switched: every behaviour of the provider that is unknown, and every fault it may have."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, ValidationError

Rotation = Literal["off", "on", "strict"]
AnswerPart = Literal["refresh_token", "expires_in", "expires", "scope", "token_type"]
FaultName = Literal[
    "none",
    "delay",
    "drip",
    "drop_before",
    "drop_after",
    "rate_limited",
    "rate_limited_retry_after",
    "server_error",
    "server_error_after",
    "invalid_client",
    "invalid_grant",
    "refused_without_code",
    "html",
    "truncated",
    "unreadable",
    "empty",
    "huge",
    "redirect",
]
RevocationFault = Literal["none", "server_error"]
UserName = Annotated[str, StringConstraints(min_length=1)]


class SwitchError(ValueError):
    """Some switches do not exist or have no such position; `complaints` says why, by name."""

    def __init__(self, complaints: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {why}" for name, why in complaints.items()))
        self.complaints = dict(complaints)


def _split(value: object) -> object:
    """Command lines give sets as one comma-separated text; everything else is left to the validation."""
    if isinstance(value, str):
        return {part.strip() for part in value.split(",") if part.strip()}
    return value


_FROM_TEXT = BeforeValidator(_split)
_IN_ORDER = PlainSerializer(sorted)


class Switches(BaseModel):
    """One position for every switch; unchangeable, so a request that reads it twice sees the same world."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    token_lifetime_seconds: float = Field(default=3600.0, gt=0, description="life of an access token")
    refresh_token_lifetime_seconds: float = Field(
        default=90 * 86400.0, gt=0, description="life of a refresh token, counted from its own issue"
    )
    code_lifetime_seconds: float = Field(default=60.0, gt=0, description="life of an authorization code")
    rotation: Rotation = Field(
        default="on",
        description="off: a refresh returns the same refresh token, its life unchanged; on: a new one, the old is "
        "spent; strict: as on, and a spent one that comes back ends every token of its family",
    )
    refresh_ends_access: bool = Field(default=False, description="a refresh ends the earlier access tokens at once")
    refresh_needs_secret: bool = Field(default=True, description="false: a refresh without client_secret is accepted")
    omit: Annotated[AbstractSet[AnswerPart], _FROM_TEXT, _IN_ORDER] = Field(
        default=frozenset(),
        description="parts left out of answers; without refresh_token a code yields none and a refresh does not rotate",
    )
    fault: FaultName = Field(default="none", description="what happens to token requests")
    fault_times: int | None = Field(
        default=None, ge=1, description="how many matching token requests have the fault; unset: until it is changed"
    )
    fault_users: Annotated[AbstractSet[UserName], _FROM_TEXT, _IN_ORDER] = Field(
        default=frozenset(), description="only token requests of these users have the fault (@company too); empty: all"
    )
    delay_seconds: float = Field(default=0.2, ge=0, description="pause of the faults delay (once) and drip (per byte)")
    retry_after_seconds: int = Field(default=7, ge=0, description="Retry-After of the fault rate_limited_retry_after")
    revocation_fault: RevocationFault = Field(default="none", description="what happens to revocation requests")

    def changed(self, changes: Mapping[str, object]) -> Self:
        """These switches with *changes* applied; a new `fault` without `fault_times` lasts until it is changed.

        Raises:
            SwitchError: a name is unknown or a value impossible; then nothing is applied.
        """
        positions = self.model_dump()
        if "fault" in changes:
            positions["fault_times"] = None
        try:
            return type(self).model_validate({**positions, **changes})
        except ValidationError as error:
            raise SwitchError({str(e["loc"][0]): _complaint(e["type"], e["msg"]) for e in error.errors()}) from None


def _complaint(kind: str, message: str) -> str:
    return "there is no such switch" if kind == "extra_forbidden" else message


DEFAULTS: Final = Switches()


def read_switches(settings: Iterable[str]) -> Switches:
    """The switches as a command line sets them: `name=value` each, sets comma-separated.

    Raises:
        SwitchError: a setting has no `=`, or a name or value is wrong.
    """
    split = [setting.partition("=") for setting in settings]
    formless = {name: "is not of the form name=value" for name, equals, _ in split if not equals}
    if formless:
        raise SwitchError(formless)
    return DEFAULTS.changed({name.strip(): value.strip() for name, _, value in split})
