"""How logs speak of users: by a short keyed name that tells them apart and reveals none of them."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Literal

from service.core.model import COMPANY, SealingKey

LENGTH = 12
"""Hexadecimal digits: enough that two users of a million hardly ever share a name."""

LONGEST_NAME = 255
Naming = Literal["hash", "plain", "none"]
NameUser = Callable[[str], str | None]
"""What a log calls a user; None when it is silent about them."""


def nameless(_user: str) -> str | None:
    """Of no user is there a word."""
    return None


def _printable(user: str) -> str:
    """*user*, with what could begin a line or steer a terminal written out; nobody has judged its form yet."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in user[:LONGEST_NAME]
    )


def naming(how: Naming, key: SealingKey) -> NameUser:
    """The way of naming users that the settings ask for; hashes are the same wherever *key* is the one that seals.

    The company is nobody and keeps its name.
    """
    if how == "none":
        return nameless
    if how == "plain":
        return _printable
    secret = hmac.digest(key.material, b"token-broker: users in logs", "sha256")

    def pseudonym(user: str) -> str:
        if user == COMPANY:
            return user
        return "u-" + hmac.new(secret, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:LENGTH]

    return pseudonym
