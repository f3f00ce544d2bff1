"""Cursors: where the next page of a listing begins, in a form that nobody has to understand."""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from service.core.errors import InvalidRequest

T = TypeVar("T")

Cursor = Annotated[str | None, Field(max_length=2048, description="`next_cursor` of the page before")]
Limit = Annotated[int, Field(ge=1, le=500, description="How many at most")]


class PageQuery(BaseModel):
    """Which page of a listing that has no filters."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    cursor: Cursor = None
    limit: Limit = 50


def write_cursor(last: Sequence[str]) -> str:
    """The cursor of the page that follows the item *last*."""
    return base64.urlsafe_b64encode(json.dumps(list(last)).encode()).decode()


def read_cursor(cursor: str, parts: int, read: Callable[..., T]) -> T:
    """What *read* makes of the *parts* strings that `write_cursor` was given; it raises for those that are not ours.

    Raises:
        InvalidRequest: it is not one of ours.
    """
    try:
        last = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
        if isinstance(last, list) and len(last) == parts and all(isinstance(part, str) for part in last):
            return read(*last)
    except (ValueError, RecursionError, InvalidRequest):
        pass
    raise InvalidRequest("The cursor is not one of ours.")
