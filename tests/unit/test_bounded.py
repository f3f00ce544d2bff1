"""Memory with a limit."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.bounded import Bounded


@dataclass(frozen=True)
class Weight:
    size: int


def kept(memory: Bounded[str, Weight], names: str = "abcdef") -> str:
    return "".join(name for name in names if name in memory)


def test_too_many_entries_make_room_by_use() -> None:
    memory: Bounded[str, Weight] = Bounded(2, 100)
    for name in "ab":
        assert memory.put(name, Weight(1)) == []
    memory.get("b")
    memory.use("a")
    assert memory.put("c", Weight(2)) == [Weight(1)]
    assert (kept(memory), len(memory)) == ("ac", 2)


def test_too_many_bytes_make_room_by_use_however_few_entries_they_are() -> None:
    memory: Bounded[str, Weight] = Bounded(100, 10)
    for name in "abc":
        memory.put(name, Weight(3))
    memory.use("a")
    assert memory.put("d", Weight(6)) == [Weight(3), Weight(3)]
    assert kept(memory) == "ad"


def test_what_is_too_large_for_all_of_the_memory_is_not_kept() -> None:
    memory: Bounded[str, Weight] = Bounded(100, 10)
    assert memory.put("a", Weight(11)) == [Weight(11)]
    assert len(memory) == 0


def test_what_is_replaced_or_taken_out_weighs_nothing() -> None:
    memory: Bounded[str, Weight] = Bounded(100, 10)
    for size in (10, 4):
        assert memory.put("a", Weight(size)) == []
    assert memory.put("b", Weight(6)) == []
    assert memory.pop("a") == Weight(4)
    assert memory.pop("a") is None
    assert memory.put("c", Weight(4)) == []
    assert kept(memory) == "bc"


def test_nothing_that_is_not_there_was_of_use() -> None:
    with pytest.raises(KeyError):
        Bounded[str, Weight](2, 2).use("a")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 8), st.booleans())))
def test_whatever_comes_and_goes_the_memory_stays_within_its_bounds(steps: list[tuple[str, int, bool]]) -> None:
    memory: Bounded[str, Weight] = Bounded(4, 16)
    model: dict[str, int] = {}
    for name, size, comes in steps:
        if comes:
            model.pop(name, None)
            model[name] = size
            while len(model) > 4 or sum(model.values()) > 16:
                del model[next(iter(model))]
            memory.put(name, Weight(size))
        else:
            model.pop(name, None)
            memory.pop(name)
        assert {key: value.size for key in "abcdef" if (value := memory.get(key))} == model
