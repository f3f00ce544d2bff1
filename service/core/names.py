"""Which names are well formed, and which patterns match them."""

import re
import unicodedata
from functools import lru_cache

from service.core.errors import InvalidRequest
from service.core.model import COMPANY

MAX_USER_LENGTH = 255
NAME_FORM = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PERSON_FORM = r"^[^@/\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*$"
USER_FORM = rf"{PERSON_FORM}|^{COMPANY}$"
"""What the documentation says; `check_name` and `check_user` decide."""
_NAME = re.compile(NAME_FORM)


def check_user(user: str) -> str:
    """*user*, if it may name one: 1 to 255 characters of valid UTF-8, no control characters, no `/`.

    Raises:
        InvalidRequest: it is malformed, or begins with the reserved `@` and is not `@company`.
    """
    if not 1 <= len(user) <= MAX_USER_LENGTH:
        raise InvalidRequest(f"A user has 1 to {MAX_USER_LENGTH} characters.")
    if any(char == "/" or unicodedata.category(char) in {"Cc", "Cs"} for char in user):
        raise InvalidRequest("A user is valid UTF-8 without control characters or a slash.")
    if user.startswith("@") and user != COMPANY:
        raise InvalidRequest(f"Users that begin with @ are reserved; only {COMPANY} exists.")
    return user


def check_name(name: str) -> str:
    """*name*, if an application or caller may bear it.

    Raises:
        InvalidRequest: it is not 1 to 64 letters, digits, dots, dashes or underscores, beginning with one of the
            first two.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest("A name has 1 to 64 letters, digits, dots, dashes or underscores.")
    return name


def matches(pattern: str, name: str) -> bool:
    """Whether *pattern* covers the whole of *name*; only `*` is special, and it never reaches reserved users."""
    if name.startswith("@") and not pattern.startswith("@"):
        return False
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", pattern)), re.DOTALL)
