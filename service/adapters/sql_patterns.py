"""Callers' patterns as SQL conditions, so that a listing never reads what its caller may not see."""

import re
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, false, func, or_


def covers(patterns: Sequence[str], column: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether any of *patterns* covers the column, exactly as `core.names.matches` would say."""
    return or_(false(), *(_covers(pattern, column) for pattern in patterns))


def _covers(pattern: str, column: ColumnElement[str]) -> ColumnElement[bool]:
    if "*" not in pattern:
        return column == pattern
    glob = re.sub(r"[\[?]", r"[\g<0>]", pattern)
    matching = func.glob(glob, column) == 1
    if pattern.startswith("@"):
        return matching
    return and_(matching, func.substr(column, 1, 1) != "@")
