"""Keeps a provider that has gone wrong from killing one grant after the other."""

from service.core.model import Application, GrantId

BELIEVED = 2


class RefusalGuard:
    """Counts the different grants of an application that were refused in a row, in this process.

    From the third on, with no success between, none is believed: more likely than three users who all withdrew
    their consent is a provider that lost its mind, or its data.
    """

    def __init__(self) -> None:
        self._refused: dict[str, list[GrantId]] = {}

    def believes(self, grant: GrantId) -> bool:
        """Whether the refusal of *grant* that has just come may be written down."""
        refused = self._refused.setdefault(grant.application, [])
        if grant not in refused[:BELIEVED] and len(refused) < BELIEVED:
            refused.append(grant)
        return grant in refused[:BELIEVED]

    def succeeded(self, application: Application) -> None:
        """The provider took a code or a refresh token of *application*."""
        self._refused.pop(application.name, None)
