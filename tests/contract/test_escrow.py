"""What every `Escrow` promises: the fake, the spool directory and Redis."""

import asyncio
import contextlib
import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from redis import Redis

from service.adapters.escrow import STALE, SpoolEscrow
from service.adapters.redis_escrow import BATCH, INDEX, RedisEscrow
from service.core.clock import SystemClock
from service.core.condition.health import READY, Readiness
from service.core.escrow.custody import Custody
from service.core.escrow.envelopes import to_bytes
from service.core.model import GrantId
from service.core.policy import Policy
from service.core.ports import Escrow, EscrowUnavailable
from service.core.records import EscrowEntry
from service.core.sealing.digests import grant_digest
from service.core.sealing.vault import Vault
from tests.support.memory_ports import MemoryEscrow, MemoryKeyring
from tests.support.servers import Server, redis_server
from tests.support.virtual_time import VirtualLoop

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 23, 12, 0, 0, 123_457, tzinfo=UTC)
ALICE = GrantId("default", "alice")
BOB = GrantId("default", "bob")
ENTRY = EscrowEntry(ALICE, 3, "0a" * 16, NOON, b"sealed")
BOBS = replace(ENTRY, grant=BOB, attempt_id="0b" * 16)
EVERY_METHOD: dict[str, Callable[[Escrow], Awaitable[object]]] = {
    "put": lambda escrow: escrow.put(ENTRY),
    "look": lambda escrow: escrow.look(ALICE),
    "entries": lambda escrow: escrow.entries(),
    "remove": lambda escrow: escrow.remove(ENTRY),
    "check": lambda escrow: escrow.check(),
}
every_method = pytest.mark.parametrize("ask", EVERY_METHOD.values(), ids=EVERY_METHOD)


def within(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture(params=["memory", "spool", "redis"])
async def escrow(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Escrow]:
    match request.param:
        case "memory":
            yield MemoryEscrow()
        case "spool":
            yield SpoolEscrow(tmp_path / "spool")
        case _:
            server: Server = request.getfixturevalue("redis")
            Redis.from_url(server.url).flushall()
            found = RedisEscrow(server.url, clock=SystemClock())
            yield found
            await found.close()


async def test_an_escrow_nobody_used_holds_nothing(escrow: Escrow) -> None:
    assert list(await escrow.look(ALICE)) == []
    assert list(await escrow.entries()) == []
    await escrow.remove(ENTRY)


async def test_what_was_kept_is_found_by_its_grant_alone(escrow: Escrow) -> None:
    await escrow.put(ENTRY)
    assert list(await escrow.look(ALICE)) == [ENTRY]
    assert list(await escrow.entries()) == [ENTRY]
    assert list(await escrow.look(BOB)) == []
    assert list(await escrow.look(GrantId("other", "alice"))) == []


async def test_the_same_attempt_replaces_what_it_kept_before(escrow: Escrow) -> None:
    newer = replace(ENTRY, generation=4, kept_at=NOON + timedelta(seconds=1), sealed=b"sealed again")
    await escrow.put(ENTRY)
    await escrow.put(newer)
    assert list(await escrow.look(ALICE)) == [newer]
    assert list(await escrow.entries()) == [newer]


async def test_two_attempts_of_one_grant_wait_side_by_side(escrow: Escrow) -> None:
    second = replace(ENTRY, attempt_id="0c" * 16, kept_at=NOON + timedelta(microseconds=1))
    await escrow.put(second)
    await escrow.put(ENTRY)
    assert list(await escrow.look(ALICE)) == [ENTRY, second]
    await escrow.remove(ENTRY)
    assert list(await escrow.look(ALICE)) == [second]
    assert list(await escrow.entries()) == [second]
    await escrow.remove(second)
    assert list(await escrow.entries()) == []


async def test_the_same_attempt_of_two_grants_is_two_entries(escrow: Escrow) -> None:
    bobs = replace(ENTRY, grant=BOB)
    await escrow.put(ENTRY)
    await escrow.put(bobs)
    await escrow.remove(ENTRY)
    assert list(await escrow.look(ALICE)) == []
    assert list(await escrow.look(BOB)) == [bobs]


async def test_entries_come_oldest_first_to_the_microsecond(escrow: Escrow) -> None:
    kept = [
        replace(ENTRY, grant=GrantId("default", f"user{n}"), kept_at=NOON + timedelta(microseconds=n)) for n in range(9)
    ]
    for n in (4, 1, 8, 0, 7, 3, 5, 2, 6):
        await escrow.put(kept[n])
    assert list(await escrow.entries()) == kept


async def test_removing_is_repeatable_and_takes_nothing_else_away(escrow: Escrow) -> None:
    await escrow.put(ENTRY)
    await escrow.put(BOBS)
    await escrow.remove(ENTRY)
    await escrow.remove(ENTRY)
    assert list(await escrow.look(ALICE)) == []
    assert list(await escrow.entries()) == [BOBS]
    await escrow.put(ENTRY)
    assert list(await escrow.look(ALICE)) == [ENTRY]


ODD_USERS = [
    "élodie 🦊 名前",
    "e\u0301lodie",
    "..",
    "../../../etc/passwd",
    " two  spaces ",
    "*",
    "[a-z]?",
    "alice-0a0a",
    "C:\\nul",
    "x" * 255,
    "🦊" * 255,
    "@company",
    "%2e%2e",
    "{}",
    "-rf",
]


@pytest.mark.parametrize("user", ODD_USERS, ids=[f"user{n}" for n in range(len(ODD_USERS))])
async def test_a_user_may_be_called_anything(escrow: Escrow, user: str) -> None:
    entry = replace(ENTRY, grant=GrantId("default", user))
    await escrow.put(entry)
    assert list(await escrow.look(entry.grant)) == [entry]
    assert list(await escrow.entries()) == [entry]
    await escrow.remove(entry)
    assert list(await escrow.entries()) == []


async def test_users_that_look_alike_are_kept_apart(escrow: Escrow) -> None:
    alike = [replace(ENTRY, grant=GrantId("default", user)) for user in ("alice", "Alice", "ALICE", "alice ", "alicé")]
    alike.append(replace(ENTRY, grant=GrantId("defaulta", "lice")))
    alike.append(replace(ENTRY, grant=GrantId("default", "alice\u0301")))
    for entry in alike:
        await escrow.put(entry)
    for entry in alike:
        assert list(await escrow.look(entry.grant)) == [entry]
    assert len(await escrow.entries()) == len(alike)


@pytest.mark.parametrize("attempt", ["..", "../../above", "a/b", "", "A0", "a" * 300, "é\x00", "0a0a.json", "x"])
async def test_an_attempt_id_of_any_form_leads_nowhere_else(escrow: Escrow, tmp_path: Path, attempt: str) -> None:
    odd = replace(ENTRY, attempt_id=attempt)
    await escrow.put(ENTRY)
    await escrow.put(odd)
    assert sorted(entry.attempt_id for entry in await escrow.look(ALICE)) == sorted([ENTRY.attempt_id, attempt])
    assert {path.name for path in within(tmp_path)} <= {"spool"}
    await escrow.remove(odd)
    assert list(await escrow.entries()) == [ENTRY]


async def test_sealed_bytes_come_back_as_they_were(escrow: Escrow) -> None:
    for sealed in (b"", bytes(range(256)) * 64, b"\r\n\x00\x1a", b'"}\n{"version": 1'):
        await escrow.put(replace(ENTRY, sealed=sealed))
        (found,) = await escrow.look(ALICE)
        assert found.sealed == sealed


@pytest.mark.parametrize(
    "kept_at",
    [
        NOON,
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=timezone(timedelta(hours=2))),
    ],
    ids=str,
)
async def test_an_instant_comes_back_to_the_microsecond(escrow: Escrow, kept_at: datetime) -> None:
    await escrow.put(replace(ENTRY, kept_at=kept_at, generation=2**62 + 1))
    (found,) = await escrow.look(ALICE)
    assert found.kept_at == kept_at
    assert found.kept_at.utcoffset() is not None
    assert found.generation == 2**62 + 1


async def test_answers_of_a_whole_fleet_can_be_kept_at_once(escrow: Escrow) -> None:
    many = [replace(ENTRY, grant=GrantId("default", f"user{n}")) for n in range(3 * BATCH)]
    await asyncio.gather(*(escrow.put(entry) for entry in many))
    assert {entry.grant for entry in await escrow.entries()} == {entry.grant for entry in many}
    await asyncio.gather(*(escrow.remove(entry) for entry in many))
    assert list(await escrow.entries()) == []


@every_method
async def test_a_fake_that_is_away_can_be_asked_nothing(ask: Callable[[Escrow], Awaitable[object]]) -> None:
    escrow = MemoryEscrow()
    await escrow.put(ENTRY)
    escrow.away = True
    with pytest.raises(EscrowUnavailable):
        await ask(escrow)
    escrow.away = False
    assert list(await escrow.entries()) == [ENTRY]


# The spool directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_spool_is_for_its_owner_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        await SpoolEscrow(folder).put(ENTRY)
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    assert [mode(path) for path in within(folder)] == [0o600]


async def test_a_spool_file_name_says_nothing(folder: Path) -> None:
    await SpoolEscrow(folder).put(ENTRY)
    (path,) = within(folder)
    assert re.fullmatch(r"[0-9a-f]{40}-[0-9a-f]{32}\.json", path.name)
    assert path.name == f"{grant_digest(ALICE)}-{ENTRY.attempt_id}.json"
    assert "alice" not in path.name


async def test_the_spool_is_on_the_disk_before_put_and_remove_return(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        kept = sum(path.suffix == ".json" for path in folder.iterdir())
        size = target.stat().st_size if target.is_file() else None
        steps.append(f"{target.name if target.is_dir() else 'file'} size={size} kept={kept}")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    escrow = SpoolEscrow(folder)
    written = len(to_bytes(ENTRY))
    await escrow.put(ENTRY)
    assert steps == [
        f"{folder.parent.name} size=None kept=0",
        f"file size={written} kept=0",
        "spool size=None kept=1",
    ]
    for _ in range(2):  # whoever removed it first may have failed at just this
        steps.clear()
        await escrow.remove(ENTRY)
        assert steps == ["spool size=None kept=0"]


async def test_what_a_crash_left_half_written_is_ignored(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    escrow = SpoolEscrow(folder)
    await escrow.put(ENTRY)
    fresh, stale = folder / f".{'ab' * 16}.tmp", folder / f".{'cd' * 16}.tmp"
    for path in (fresh, stale):
        path.write_bytes(to_bytes(ENTRY)[:20])
    long_ago = time.time() - 2 * STALE.total_seconds()
    os.utime(stale, (long_ago, long_ago))
    (folder / "lost+found").mkdir()
    assert list(await escrow.look(ALICE)) == [ENTRY]
    assert list(await escrow.entries()) == [ENTRY]
    assert fresh.exists()
    assert not stale.exists()
    assert caplog.records == []


GARBLED = {
    "empty": b"",
    "half": to_bytes(ENTRY)[:60],
    "garbage": b"\xff\xfe\x00secret",
    "deep": b"[" * 100_000,
    "somebody else's": to_bytes(BOBS),
    "another attempt": to_bytes(replace(ENTRY, attempt_id="0d" * 16)),
}


@pytest.mark.parametrize("data", GARBLED.values(), ids=GARBLED)
async def test_a_garbled_spool_file_hides_nothing_and_blocks_nobody_else(
    folder: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    escrow = SpoolEscrow(folder)
    await escrow.put(BOBS)
    await escrow.put(ENTRY)
    garbled = folder / f"{grant_digest(ALICE)}-{ENTRY.attempt_id}.json"
    garbled.write_bytes(data)
    with pytest.raises(EscrowUnavailable):
        await escrow.look(ALICE)
    assert list(await escrow.look(BOB)) == [BOBS]
    assert list(await escrow.entries()) == [BOBS]
    assert list(await escrow.entries()) == [BOBS]
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["file"]) == ("ERROR", garbled.name)
    assert "secret" not in caplog.text
    await escrow.put(ENTRY)
    assert list(await escrow.look(ALICE)) == [ENTRY]


@pytest.mark.parametrize("kind", ["folder", "link", "silent pipe", "pipe"])
async def test_only_a_regular_file_is_believed(folder: Path, request: pytest.FixtureRequest, kind: str) -> None:
    escrow = SpoolEscrow(folder)
    await escrow.put(BOBS)
    odd = folder / f"{grant_digest(ALICE)}-{ENTRY.attempt_id}.json"
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes(to_bytes(ENTRY))
    match kind:
        case "folder":
            odd.mkdir()
        case "link":
            odd.symlink_to(elsewhere)
        case "silent pipe":
            os.mkfifo(odd)
        case _:
            os.mkfifo(odd)
            writer = os.open(odd, os.O_RDWR | os.O_NONBLOCK)
            request.addfinalizer(lambda: os.close(writer))
            os.write(writer, to_bytes(ENTRY))
    with pytest.raises(EscrowUnavailable):
        await asyncio.wait_for(escrow.look(ALICE), 5)
    assert list(await escrow.entries()) == [BOBS]


def test_reading_and_failing_leave_no_descriptor_open(folder: Path) -> None:
    async def strain() -> None:
        escrow = SpoolEscrow(folder)
        await escrow.put(ENTRY)
        (folder / f"{grant_digest(BOB)}-ab.json").mkdir()
        for _ in range(20):
            await escrow.put(ENTRY)
            await escrow.entries()
            await escrow.remove(ENTRY)

    asyncio.run(strain())
    opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert [path for path in opened if str(path).startswith(str(folder))] == []


async def test_a_file_that_vanishes_while_the_folder_is_read_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    escrow = SpoolEscrow(folder)
    await escrow.put(ENTRY)
    await escrow.put(BOBS)
    vanishing = folder / f"{grant_digest(ALICE)}-{ENTRY.attempt_id}.json"
    real = os.open

    def open_(path: Path, flags: int, *rest: int) -> int:
        if path == vanishing and not flags & os.O_CREAT:
            vanishing.unlink(missing_ok=True)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_)
    assert list(await escrow.entries()) == [BOBS]
    await escrow.put(ENTRY)
    assert list(await escrow.look(ALICE)) == []
    assert caplog.records == []


@pytest.mark.parametrize("place", ["a file", "below a file", "parent missing", "dead link"])
@every_method
async def test_a_spool_that_cannot_be_asked_says_so(
    tmp_path: Path, ask: Callable[[Escrow], Awaitable[object]], place: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    folders = {
        "a file": file,
        "below a file": file / "spool",
        "parent missing": tmp_path / "x" / "y",
        "dead link": link,
    }
    with pytest.raises(EscrowUnavailable) as refusal:
        await ask(SpoolEscrow(folders[place]))
    assert refusal.value.__cause__ is None
    assert str(tmp_path) not in str(refusal.value)
    assert not (tmp_path / "x").exists()


@every_method
async def test_an_error_of_the_disk_is_told_by_its_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Escrow], Awaitable[object]]
) -> None:
    """But for `entries`, which leaves out what it cannot read."""
    await SpoolEscrow(folder).put(ENTRY)

    def broken(_path: Path, _flags: int, *_rest: int) -> int:
        raise OSError(errno.EIO, "at a secret place")

    monkeypatch.setattr(os, "open", broken)
    if ask is EVERY_METHOD["entries"]:
        assert list(await SpoolEscrow(folder).entries()) == []
        return
    with pytest.raises(EscrowUnavailable) as refusal:
        await ask(SpoolEscrow(folder))
    assert "secret" not in str(refusal.value)


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from tests.contract.test_escrow import ALICE, ENTRY, EscrowUnavailable, SpoolEscrow, replace

async def fill(folder):
    escrow = SpoolEscrow(folder)
    await escrow.put(ENTRY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        await escrow.put(replace(ENTRY, sealed=b"x" * 5000))
    except EscrowUnavailable as refusal:
        print(refusal)
    print(list(await escrow.look(ALICE)) == [ENTRY], len(list(folder.iterdir())))

asyncio.run(fill(Path(sys.argv[1])))
"""


def test_a_disk_that_takes_only_half_keeps_what_was_there_and_no_half(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines() == ["the spool folder failed: EFBIG", "True 1"]


@every_method
def test_a_disk_that_hangs_hangs_nobody(folder: Path, ask: Callable[[Escrow], Awaitable[object]]) -> None:
    released, threads = threading.Event(), ThreadPoolExecutor(1)

    async def try_it() -> None:
        asyncio.get_running_loop().set_default_executor(threads)
        with pytest.raises(EscrowUnavailable, match="TimeoutError"):
            await ask(SpoolEscrow(folder))

    threads.submit(released.wait)
    loop = VirtualLoop()
    try:
        loop.run_until_complete(try_it())
    finally:
        released.set()
        threads.shutdown()
        loop.close()


async def test_two_processes_share_one_spool(folder: Path) -> None:
    ours, theirs = SpoolEscrow(folder), SpoolEscrow(folder)
    await ours.put(ENTRY)
    await theirs.put(BOBS)
    assert list(await theirs.look(ALICE)) == [ENTRY]
    assert len(await ours.entries()) == 2
    await theirs.remove(ENTRY)
    assert list(await ours.look(ALICE)) == []
    await ours.remove(ENTRY)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.contract.test_escrow import ENTRY, SpoolEscrow

asyncio.run(SpoolEscrow(Path(sys.argv[1])).put(ENTRY))
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_what_was_kept_outlives_a_killed_process(folder: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, check=False, timeout=30
    )
    assert done.returncode == -signal.SIGKILL
    assert list(await SpoolEscrow(folder).look(ALICE)) == [ENTRY]


async def test_a_spool_means_the_same_place_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    escrow = SpoolEscrow(Path("spool"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await escrow.put(ENTRY)
    assert len(within(tmp_path / "spool")) == 1


async def test_a_slow_disk_does_not_hold_up_the_event_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = threading.get_ident()
    used: set[int] = set()
    for name in ("open", "fsync"):
        real = getattr(os, name)

        def noted(*arguments: object, real: Callable[..., object] = real) -> object:
            used.add(threading.get_ident())
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)
    escrow = SpoolEscrow(folder)
    for ask in EVERY_METHOD.values():
        await ask(escrow)
    assert used
    assert here not in used


# Redis


@pytest.fixture
def client(redis: Server) -> Redis:
    found = Redis.from_url(redis.url, decode_responses=True)
    found.flushall()
    return found


@pytest.fixture
async def remote(redis: Server, client: Redis) -> AsyncIterator[RedisEscrow]:
    found = RedisEscrow(redis.url, clock=SystemClock())
    yield found
    await found.close()


async def test_redis_keys_hide_users_and_never_expire(remote: RedisEscrow, client: Redis) -> None:
    await remote.put(ENTRY)
    hash_key = f"{INDEX}:{grant_digest(ALICE)}"
    assert set(client.keys()) == {"token-broker:escrow", hash_key}
    assert [client.ttl(INDEX), client.ttl(hash_key)] == [-1, -1]
    await remote.remove(ENTRY)
    assert client.keys() == []


async def test_entry_and_index_are_written_and_removed_together(remote: RedisEscrow, client: Redis) -> None:
    """Whoever watches sees one transaction, and what Redis refuses leaves neither."""
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        await remote.put(ENTRY)
        await remote.remove(ENTRY)
        client.echo("end")
        seen = []
        for command in monitor.listen():
            seen.append((command["client_type"], command["command"].split()[0].upper()))
            if seen[-1][1] == "ECHO":
                break
    writes = [(origin, name) for origin, name in seen if name in {"SADD", "HSET", "HDEL", "SREM"}]
    assert writes == [("lua", name) for name in ("SADD", "HSET", "HDEL", "SREM")]


async def test_a_full_redis_keeps_all_or_nothing_and_still_lets_go(remote: RedisEscrow, client: Redis) -> None:
    await remote.put(ENTRY)
    client.config_set("maxmemory", "1")
    client.config_set("maxmemory-policy", "noeviction")
    try:
        with pytest.raises(EscrowUnavailable):
            await remote.put(BOBS)
        assert client.smembers(INDEX) == {grant_digest(ALICE)}
        assert list(await remote.entries()) == [ENTRY]
        await remote.remove(ENTRY)
        assert client.keys() == []
    finally:
        client.config_set("maxmemory", "0")


async def test_an_index_entry_without_its_hash_is_healed(remote: RedisEscrow, client: Redis) -> None:
    await remote.put(ENTRY)
    client.sadd(INDEX, grant_digest(BOB), "no digest \u00e9", b"\xff\n")
    assert list(await remote.entries()) == [ENTRY]
    assert client.smembers(INDEX) == {grant_digest(ALICE)}


@pytest.mark.parametrize("what", [*GARBLED, "another type"])
async def test_a_garbled_redis_entry_hides_nothing_and_blocks_nobody_else(
    remote: RedisEscrow, client: Redis, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    await remote.put(BOBS)
    await remote.put(ENTRY)
    second = replace(ENTRY, attempt_id="0c" * 16)
    await remote.put(second)
    key = f"{INDEX}:{grant_digest(ALICE)}"
    if what == "another type":
        client.delete(key)
        client.set(key, "secret")
        readable = [BOBS]
    else:
        client.hset(key, ENTRY.attempt_id, GARBLED[what])
        readable = [BOBS, second]
    with pytest.raises(EscrowUnavailable):
        await remote.look(ALICE)
    assert list(await remote.look(BOB)) == [BOBS]
    for _ in range(2):
        assert sorted(await remote.entries(), key=lambda entry: entry.attempt_id) == readable
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["key"]) == ("ERROR", key)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("trouble", ["dead", "hung"])
@every_method
async def test_a_lost_redis_says_so_at_once(trouble: str, ask: Callable[[Escrow], Awaitable[object]]) -> None:
    with redis_server() as server:
        escrow = RedisEscrow(server.url, clock=SystemClock())
        await escrow.put(ENTRY)
        (server.kill if trouble == "dead" else server.pause)()
        began = time.monotonic()
        with pytest.raises(EscrowUnavailable) as refusal:
            await ask(escrow)
        assert time.monotonic() - began < 0.5
        assert refusal.value.__cause__ is None
        assert refusal.value.__context__ is None
        (server.start if trouble == "dead" else server.go_on)()
        await until_it_keeps(escrow, ENTRY)
        assert list(await escrow.look(ALICE)) == [ENTRY]
        await escrow.close()


async def until_it_keeps(escrow: Escrow, entry: EscrowEntry) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(EscrowUnavailable):
                return await escrow.put(entry)
            await asyncio.sleep(0.05)


class Held(SystemClock):
    """Everybody's pause lasts until `passed` is set."""

    def __init__(self) -> None:
        self.passed = asyncio.Event()

    async def sleep(self, duration: timedelta) -> None:
        await self.passed.wait()


async def test_a_redis_that_did_not_answer_is_left_alone_until_a_probe_succeeds() -> None:
    """Who comes meanwhile is told that it could not be asked, not that nothing is there."""
    with redis_server() as server:
        clock = Held()
        escrow = RedisEscrow(server.url, clock=clock)
        await escrow.put(ENTRY)
        server.pause()
        with pytest.raises(EscrowUnavailable, match="TimeoutError"):
            await escrow.look(ALICE)
        server.go_on()
        await escrow.check()
        for name in EVERY_METHOD.keys() - {"check"}:
            with pytest.raises(EscrowUnavailable, match="left alone"):
                await EVERY_METHOD[name](escrow)
        clock.passed.set()
        await until_it_keeps(escrow, BOBS)
        assert list(await escrow.look(ALICE)) == [ENTRY]
        await escrow.close()


async def test_many_who_meet_a_hung_redis_wait_no_longer_than_a_moment() -> None:
    with redis_server() as server:
        escrow = RedisEscrow(server.url, clock=SystemClock())
        server.pause()
        began = time.monotonic()
        outcomes = await asyncio.gather(*(escrow.put(ENTRY) for _ in range(1000)), return_exceptions=True)
        assert time.monotonic() - began < 2
        assert {type(outcome) for outcome in outcomes} == {EscrowUnavailable}
        server.go_on()
        await escrow.close()


async def test_what_cannot_be_written_down_is_refused_as_unavailable(folder: Path, remote: RedisEscrow) -> None:
    for escrow in (SpoolEscrow(folder), remote):
        for odd in (
            replace(ENTRY, kept_at=NOON.replace(tzinfo=None)),
            replace(ENTRY, grant=GrantId("default", "\ud83d")),
            replace(ENTRY, attempt_id="\udc00"),
        ):
            with pytest.raises(EscrowUnavailable):
                await escrow.put(odd)
            await escrow.remove(odd)
        assert list(await escrow.entries()) == []


# Whether an answer would be taken


async def test_asking_whether_an_answer_would_be_taken_leaves_nothing_behind(escrow: Escrow, tmp_path: Path) -> None:
    await escrow.check()
    await escrow.put(ENTRY)
    for _ in range(3):
        await escrow.check()
    assert list(await escrow.entries()) == [ENTRY]
    if isinstance(escrow, SpoolEscrow):
        assert [path.suffix for path in within(tmp_path / "spool")] == [".json"]


async def test_a_spool_that_can_never_be_written_shows_in_health_before_anything_is_lost(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    vault = Vault(MemoryKeyring(), Policy(), lambda: 0.0)
    health = await Custody(SpoolEscrow(tmp_path / "file" / "spool"), None, vault).health()
    assert health.readiness is Readiness.DEGRADED
    assert health.detail == "this escrow takes no answers: the spool folder failed: ENOTDIR"
    assert await Custody(SpoolEscrow(tmp_path / "spool"), None, vault).health() == READY


NO_ROOM = """
import asyncio, resource, sys
from pathlib import Path
from tests.contract.test_escrow import EscrowUnavailable, SpoolEscrow

async def ask(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        await SpoolEscrow(folder).check()
        print("it would be taken")
    except EscrowUnavailable as refusal:
        print(refusal, len(list(folder.iterdir())))

asyncio.run(ask(Path(sys.argv[1])))
"""


def test_a_disk_that_takes_names_but_not_one_byte_would_take_no_answer(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines() == ["the spool folder failed: EFBIG 0"]


async def test_a_redis_that_takes_nothing_new_is_no_place_for_a_copy(redis: Server) -> None:
    escrow = RedisEscrow(redis.url, clock=SystemClock())
    with Redis.from_url(redis.url) as client:
        await escrow.check()
        client.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(EscrowUnavailable):
                await escrow.check()
        finally:
            client.replicaof("NO", "ONE")
    await escrow.close()
