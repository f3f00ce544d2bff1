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
"""What the documentation says, of patterns too; `check_name`, `check_user` and `check_pattern` decide."""
_NAME = re.compile(NAME_FORM)
KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")
"""What a sealing key may be called."""


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


def check_pattern(pattern: str) -> str:
    """*pattern*, if some name could match it.

    Raises:
        InvalidRequest: it is empty, longer than a user, or has characters that no user or application has.
    """
    if not 1 <= len(pattern) <= MAX_USER_LENGTH:
        raise InvalidRequest(f"A pattern has 1 to {MAX_USER_LENGTH} characters.")
    if any(char == "/" or unicodedata.category(char) in {"Cc", "Cs"} for char in pattern):
        raise InvalidRequest("A pattern is valid UTF-8 without control characters or a slash.")
    if pattern.startswith("@") and pattern != COMPANY:
        raise InvalidRequest(f"Of the names that begin with @ there is only {COMPANY}, and it has to be written out.")
    return pattern


def matches(pattern: str, name: str) -> bool:
    """Whether *pattern* covers the whole of *name*; only `*` is special, and it never reaches reserved users.

    The time grows with the length of both, however many stars there are.
    """
    if name.startswith("@"):
        return name == pattern
    first, *others = _pieces(pattern)
    if not others:
        return name == first
    last, at = others[-1], len(first)
    if not name.startswith(first) or not name.endswith(last) or len(name) < at + len(last):
        return False
    end = len(name) - len(last)
    for piece in others[:-1]:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


@lru_cache(maxsize=4096)
def _pieces(pattern: str) -> list[str]:
    return pattern.split("*")
