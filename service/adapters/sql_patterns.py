"""Callers' patterns as SQL conditions, so that a listing never reads what its caller may not see."""

import re
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, false, func, or_


def covers(patterns: Sequence[str], column: ColumnElement[str], *, sqlite: bool) -> ColumnElement[bool]:
    """Whether any of *patterns* covers the column, exactly as `core.names.matches` would say."""
    return or_(false(), *(_covers(pattern, column, sqlite=sqlite) for pattern in patterns))


def _covers(pattern: str, column: ColumnElement[str], *, sqlite: bool) -> ColumnElement[bool]:
    if "*" not in pattern:
        return column == pattern
    matching = _glob(pattern, column) if sqlite else _like(pattern, column)
    return and_(matching, func.substr(column, 1, 1) != "@")


def _glob(pattern: str, column: ColumnElement[str]) -> ColumnElement[bool]:
    """SQLite's LIKE ignores case; its GLOB does not."""
    return func.glob(re.sub(r"[\[?]", r"[\g<0>]", pattern), column) == 1


def _like(pattern: str, column: ColumnElement[str]) -> ColumnElement[bool]:
    return column.like(re.sub(r"[\\%_]", r"\\\g<0>", pattern).replace("*", "%"), escape="\\")
