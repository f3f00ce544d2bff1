"""W3C Trace Context: what is read of it, and what is passed on."""

import re

import pytest

from service.core.tracing import read_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_a_request_becomes_a_step_of_its_callers_trace() -> None:
    trace = read_traceparent([GOOD])
    assert trace is not None
    assert (trace.trace_id, trace.sampled) == (TRACE, True)
    assert re.fullmatch(r"[0-9a-f]{16}", trace.span_id)
    assert trace.span_id != PARENT


@pytest.mark.parametrize(("flags", "passed_on"), [("00", "00"), ("01", "01"), ("03", "01"), ("fe", "00")])
def test_every_request_passed_on_is_a_step_of_its_own(flags: str, passed_on: str) -> None:
    trace = read_traceparent([f"00-{TRACE}-{PARENT}-{flags}"])
    assert trace is not None
    first, second = trace.next_header(), trace.next_header()
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-{passed_on}", first)
    assert len({first, second, f"00-{TRACE}-{PARENT}-{flags}"}) == 3


@pytest.mark.parametrize("later", [f"01-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what-comes-later"])
def test_a_later_version_is_read_as_far_as_ours_goes(later: str) -> None:
    trace = read_traceparent([later])
    assert trace is not None
    assert trace.next_header().startswith(f"00-{TRACE}-")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [GOOD, GOOD],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-01-more"],
        [f"01-{TRACE}-{PARENT}-01more"],
        [f"00-{TRACE[:-1]}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-1"],
        [f" {GOOD}"],
        [f"cc-{TRACE}-{PARENT}-01-" + "x" * 600],
        ["\u0664" * 55],
    ],
)
def test_what_the_specification_does_not_allow_is_no_trace(values: list[str]) -> None:
    assert read_traceparent(values) is None
