"""The crash matrix: what fails when, and what must come of it. `python -m tests.crash.matrix` prints it as Markdown."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from service.core.redeeming.steps import Step


class Outcome(StrEnum):
    """How a cell ends; the caller is whoever met the fault, and asks another replica when its own does not answer."""

    SERVED = "served"
    HEALED = "healed"
    LOST = "lost"
    AGAIN = "again"


OUTCOMES: Mapping[Outcome, str] = {
    Outcome.SERVED: "the caller's first answer is a token that works; a browser's is the page it should see.",
    Outcome.HEALED: "the caller is first told to come back (503 with `Retry-After`), later the token works without "
    "anybody's help. A browser that lost its page finds its user connected.",
    Outcome.LOST: "409 `lost_in_transit`: the user has to connect again. Counted in `token_broker_lost_grants_total`.",
    Outcome.AGAIN: "the person at the browser is told what to do, and the next trip connects; nothing late undoes it.",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """An outcome, and a word why."""

    outcome: Outcome
    why: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault at one moment, and what must come of it."""

    table: str
    moment: str
    fault: str
    expected: Expected

    def __str__(self) -> str:
        return f"{self.moment}-{self.fault}".replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Table:
    """Moments down, faults across. None is a combination that does not exist; `legend` says why."""

    title: str
    legend: str
    faults: Sequence[str]
    rows: Mapping[str, Sequence[Expected | None]]

    def cells(self) -> list[Cell]:
        return [
            Cell(self.title, moment, fault, expected)
            for moment, row in self.rows.items()
            for fault, expected in zip(self.faults, row, strict=True)
            if expected is not None
        ]


def _served(why: str) -> Expected:
    return Expected(Outcome.SERVED, why)


def _healed(why: str) -> Expected:
    return Expected(Outcome.HEALED, why)


def _lost(why: str) -> Expected:
    return Expected(Outcome.LOST, why)


def _again(why: str) -> Expected:
    return Expected(Outcome.AGAIN, why)


GONE, RESTARTED = "killed for good", "killed and restarted"
PAUSED_LONG, PAUSED_PAST_LEASE, PAUSED = "paused for long", "paused past its lease", "paused shortly"
RECONNECTED = "paused until the user has connected again"
CONNECT_FAULTS = (GONE, RESTARTED, PAUSED_LONG, PAUSED)
RENEWAL_FAULTS = (GONE, RESTARTED, PAUSED_LONG, PAUSED_PAST_LEASE, PAUSED)
IN_FLIGHT = "in_flight"
"""Not a step of ours: the provider has acted, and its answer is on its way."""

_PATIENT = _served("nobody takes over so soon")
_NOT_SENT = (
    _healed("nothing sent, taken over"),
    _healed("nothing sent, taken over"),
    _healed("taken over; who wakes sends nothing"),
    _healed("who wakes sends nothing, and gives the claim back"),
    _PATIENT,
)
_UNSAVED = (
    _lost("no durable write yet"),
    _lost("no durable write yet"),
    _lost("redeemed again at takeover, ADR 0003"),
    _healed("nobody takes over yet: the late answer is saved"),
    _PATIENT,
)
_IN_THE_ROW = (_served("committed"),) * 5

RENEWAL_PROCESS = Table(
    "A renewal's process dies or stops, everything else is well",
    "`spooled`, `copied` and `cleared` are not reached while the database takes the answer: see the next table. "
    "`looked_into_escrow` is reached only after an attempt that never ended; the cell begins with one.",
    RENEWAL_FAULTS,
    {
        Step.CLAIMED: _NOT_SENT,
        Step.LOOKED_INTO_ESCROW: _NOT_SENT,
        Step.OPENED: _NOT_SENT,
        IN_FLIGHT: _UNSAVED,
        Step.ANSWERED: _UNSAVED,
        Step.SAVED: _IN_THE_ROW,
        Step.SHARED: _IN_THE_ROW,
        Step.PUBLISHED: _IN_THE_ROW,
    },
)

RECONNECTED_PROCESS = Table(
    "A renewal's process wakes up after its user has connected again",
    "Paused for long, until another replica has found the grant lost (ADR 0003) and the user has come back.",
    (RECONNECTED,),
    {
        IN_FLIGHT: (_again("the late answer is of an older generation"),),
        Step.ANSWERED: (_again("the late answer is of an older generation"),),
    },
)

_IN_REDIS = _healed("the copy in Redis is replayed")

RENEWAL_PROCESS_WITHOUT_DATABASE = Table(
    "A renewal's process dies or stops, and the database was lost as the answer came",
    "The database comes back once the caller has had an answer of another replica; at `cleared` it is back already.",
    RENEWAL_FAULTS,
    {
        Step.SPOOLED: (
            _lost("the only copy is on a disk that never comes back"),
            _healed("its own disk is replayed"),
            _lost("redeemed again at takeover, ADR 0003"),
            _healed("nobody takes over yet: copied and saved late"),
            _served("from memory"),
        ),
        Step.COPIED: (_IN_REDIS, _healed("disk or Redis is replayed"), _IN_REDIS, _IN_REDIS, _served("from memory")),
        Step.CLEARED: (_served("from memory, and committed"),) * 5,
    },
)

_UNSENT_CODE = (_again("the state is taken, the code was not sent"),) * 3 + (_served("the browser waits"),)
_UNSAVED_CODE = (_again("the code is spent, its answer gone"),) * 2 + (
    _again("the person does not wait so long; the latest login wins"),
    _served("the browser waits"),
)
_CONNECTED = (_healed("committed, only the page is lost"),) * 3 + (_served("the browser waits"),)

CONNECT_PROCESS = Table(
    "A connect's process dies or stops, everything else is well",
    "There is no lease here: *for long* means until the person has gone on elsewhere.",
    CONNECT_FAULTS,
    {
        Step.STATE_TAKEN: _UNSENT_CODE,
        IN_FLIGHT: _UNSAVED_CODE,
        Step.CODE_ANSWERED: _UNSAVED_CODE,
        Step.CONNECTED: _CONNECTED,
        Step.COMPLETED: _CONNECTED,
    },
)

CONNECT_PROCESS_WITHOUT_DATABASE = Table(
    "A connect's process dies or stops, and the database was lost as the answer came",
    "As above; the database comes back once the browser has had an answer of another replica.",
    CONNECT_FAULTS,
    {
        Step.SPOOLED: (
            _again("the only copy is on a disk that never comes back"),
            _healed("its own disk is replayed"),
            _again("the person does not wait so long; the latest login wins"),
            _served("safe on the disk"),
        ),
        Step.COPIED: (_IN_REDIS, _healed("disk or Redis is replayed"), _IN_REDIS, _served("safe twice")),
    },
)

BACKGROUND_PROCESS = Table(
    "The background's process dies or stops",
    "The caller comes after the fault, when the old token has ended. From `answered` on a renewal of the background is "
    "any renewal.",
    RENEWAL_FAULTS,
    {Step.CLAIMED: _NOT_SENT, Step.ANSWERED: _UNSAVED},
)

DATABASE_KILLED, DATABASE_HUNG = "database killed", "database hung"
DATABASE_READ_ONLY, DATABASE_FULL = "database read-only", "database without connections"
REDIS_KILLED, REDIS_HUNG, REDIS_FULL = "Redis killed", "Redis hung", "Redis full"
RESOURCE_FAULTS = (
    DATABASE_KILLED,
    DATABASE_HUNG,
    DATABASE_READ_ONLY,
    DATABASE_FULL,
    REDIS_KILLED,
    REDIS_HUNG,
    REDIS_FULL,
)
UNFINISHED = "claimed after an unfinished attempt"
NO_DATABASE = "without database: "

_NO_CACHE = (_served("Redis is a cache"),) * 3
_ANSWER_KEPT = (_served("escrow, then replayed"),) * 4 + _NO_CACHE
_ANSWER_STORED = (_served("committed already"),) * 4 + _NO_CACHE
_SPOOL_LEFT = (None,) * 4 + (_served("spool and memory"),) * 3
_COULD_NOT_LOOK = _healed("could not look into Redis: the claim is given back")

RENEWAL_RESOURCES = Table(
    "A resource fails during a renewal, and comes back",
    f"*{NO_DATABASE.strip(': ')}*: the database was killed at `answered`, and at `spooled` and `copied` cannot be lost "
    "once more; at `cleared` it is back.",
    RESOURCE_FAULTS,
    {
        Step.CLAIMED: _ANSWER_KEPT,
        UNFINISHED: (_served("escrow, then replayed"),) * 4
        + (_COULD_NOT_LOOK, _COULD_NOT_LOOK, _served("a full Redis can be read")),
        Step.LOOKED_INTO_ESCROW: _ANSWER_KEPT,
        Step.OPENED: _ANSWER_KEPT,
        Step.ANSWERED: _ANSWER_KEPT,
        Step.SAVED: _ANSWER_STORED,
        Step.SHARED: _ANSWER_STORED,
        Step.PUBLISHED: _ANSWER_STORED,
        NO_DATABASE + Step.SPOOLED: _SPOOL_LEFT,
        NO_DATABASE + Step.COPIED: _SPOOL_LEFT,
        NO_DATABASE + Step.CLEARED: _ANSWER_STORED,
    },
)

CONNECT_RESOURCES = Table(
    "A resource fails during a connect, and comes back",
    "As above, the database killed at `code_answered`.",
    RESOURCE_FAULTS,
    {
        Step.STATE_TAKEN: _ANSWER_KEPT,
        Step.CODE_ANSWERED: _ANSWER_KEPT,
        Step.CONNECTED: _ANSWER_STORED,
        Step.COMPLETED: _ANSWER_STORED,
        NO_DATABASE + Step.SPOOLED: _SPOOL_LEFT,
        NO_DATABASE + Step.COPIED: _SPOOL_LEFT,
    },
)

REFRESH, REFRESH_ALONE = "refresh", "refresh, database lost"
EXCHANGE, EXCHANGE_ALONE = "code exchange", "code exchange, database lost"
_NOT_ACTED = (_healed("not spent: works after the takeover time"),) * 2 + (_again("the code is not sent twice"),) * 2
_ACTED = (_lost("its answer never reached us"),) * 2 + (_again("its answer never reached us"),) * 2

PROVIDER = Table(
    "The provider fails",
    "Named as in the sandbox: `drop_*` resets the connection, `server_error*` is 500, `unreadable` a 200 of broken "
    "JSON; `*_after` and `unreadable` come after the provider has acted. *Database lost*: as the request is sent.",
    (REFRESH, REFRESH_ALONE, EXCHANGE, EXCHANGE_ALONE),
    {
        "drop_before": _NOT_ACTED,
        "server_error": _NOT_ACTED,
        "drop_after": _ACTED,
        "server_error_after": _ACTED,
        "unreadable": _ACTED,
    },
)

TABLES = (
    RENEWAL_PROCESS,
    RENEWAL_PROCESS_WITHOUT_DATABASE,
    RECONNECTED_PROCESS,
    BACKGROUND_PROCESS,
    CONNECT_PROCESS,
    CONNECT_PROCESS_WITHOUT_DATABASE,
    RENEWAL_RESOURCES,
    CONNECT_RESOURCES,
    PROVIDER,
)


def markdown() -> str:
    """The whole matrix, as it stands in docs/reliability.md."""
    parts = ["\n".join(f"- **{outcome}**: {meaning}" for outcome, meaning in OUTCOMES.items())]
    for table in TABLES:
        head = ["at", *table.faults]
        lines = [head, ["---"] * len(head)]
        lines += [[f"`{moment}`", *(_shown(expected) for expected in row)] for moment, row in table.rows.items()]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {table.title}\n\n{table.legend}\n\n{rows}")
    return "\n\n".join(parts) + "\n"


def _shown(expected: Expected | None) -> str:
    return "-" if expected is None else f"**{expected.outcome}**: {expected.why}"


if __name__ == "__main__":
    sys.stdout.write(markdown())
