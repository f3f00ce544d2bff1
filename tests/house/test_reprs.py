"""A secret is a type whose repr hides it, everywhere."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from datetime import timedelta

from pydantic import BaseModel

import service
from service.core.authorization import Departure

HOLDS_A_SECRET = re.compile(
    r"(access|refresh)_token|(client_)?secret|cookie|(code_)?verifier|password|ticket|key|material|connect_url"
)


def shapes() -> Iterator[type]:
    """Every class of the product."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.endswith("__main__"):
            for found in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(found) and found.__module__ == module.name:
                    yield found


def shown_fields() -> Iterator[tuple[str, str]]:
    """Every field that a repr shows, with its type as text."""
    for shape in shapes():
        fields: list[tuple[str, object]] = []
        if dataclasses.is_dataclass(shape):
            fields = [(field.name, field.type) for field in dataclasses.fields(shape) if field.repr]
        elif issubclass(shape, BaseModel):
            fields = [(name, info.annotation) for name, info in shape.model_fields.items() if info.repr]
        yield from ((f"{shape.__module__}.{shape.__qualname__}.{name}", str(kind)) for name, kind in fields)


def showing() -> set[str]:
    return {
        place
        for place, kind in shown_fields()
        if HOLDS_A_SECRET.fullmatch(place.rpartition(".")[2])
        and re.search(r"\b(str|bytes)\b", kind)
        and "service." not in kind
    }


def test_no_shape_of_the_product_shows_a_secret_in_its_repr() -> None:
    assert len(list(shown_fields())) > 200
    assert showing() == set()


def test_where_a_browser_departs_to_holds_a_state_and_is_not_shown() -> None:
    assert "https" not in repr(Departure("https://provider.example/?state=secret", "cookie", timedelta(minutes=10)))
