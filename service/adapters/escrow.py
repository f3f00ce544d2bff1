"""Escrow in a spool directory: one file per grant and attempt, on the disk before `put` returns.

Any number of processes may share the folder. It is made when it is first needed, its parent never: a parent that is
missing is a disk that is not mounted, and there "nothing waits" would be a lie.
"""

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from service.core.escrow.envelopes import from_bytes, oldest_first, to_bytes
from service.core.model import GrantId
from service.core.ports import EscrowUnavailable
from service.core.records import EscrowEntry
from service.core.sealing.digests import grant_digest

log = logging.getLogger(__name__)

DEADLINE = timedelta(seconds=10)
"""How long the disk may take: one that hangs, as a network's may, must not hang whoever renews. What it does later does
no harm: an answer that is found again is brought in again."""

STALE = timedelta(days=1)
"""After which a temporary file is certainly nobody's any more."""

_NAME = re.compile(r"[0-9a-f]{40}-\w+\.json", re.ASCII)
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_PLAIN_ID = re.compile(r"[0-9a-f]{1,64}")

T = TypeVar("T")


class SpoolEscrow:
    """An `Escrow` in *folder*; the file work is done in threads, since a disk may take its time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._is_rooted = False
        self._complained: frozenset[str] = frozenset()

    @property
    def unreadable(self) -> int:
        """How many files could not be read when all entries were last asked for."""
        return len(self._complained)

    async def put(self, entry: EscrowEntry) -> None:
        await _in_thread(lambda: self._write(_name(entry), to_bytes(entry)))

    async def look(self, grant: GrantId) -> Sequence[EscrowEntry]:
        found, unreadable = await _in_thread(lambda: self._read(f"{grant_digest(grant)}-"))
        if unreadable:
            raise EscrowUnavailable("a file of the spool folder cannot be read")
        return found

    async def entries(self) -> Sequence[EscrowEntry]:
        found, unreadable = await _in_thread(self._sweep)
        for name in sorted(unreadable - self._complained):
            log.error("an escrow file cannot be read", extra={"file": name})
        self._complained = unreadable
        return found

    async def remove(self, entry: EscrowEntry) -> None:
        await _in_thread(lambda: self._unlink(_name(entry)))

    async def check(self) -> None:
        await _in_thread(self._try_out)

    def _try_out(self) -> None:
        self._make_folder()
        trial = self._folder / f".{secrets.token_hex(16)}.tmp"
        try:
            _write_new(trial, bytes(4096))
        finally:
            trial.unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        self._make_folder()
        temporary = self._folder / f".{secrets.token_hex(16)}.tmp"
        try:
            _write_new(temporary, data)
            temporary.replace(self._folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync(self._folder)

    def _make_folder(self) -> None:
        """Make the folder if need be, and its name in its parent as durable as what it will hold."""
        try:
            self._folder.mkdir(mode=0o700)
        except FileExistsError:
            if self._is_rooted:
                return
        # An operator's parent folder may be closed to us; then the folder that stands in it has long been there.
        with contextlib.suppress(PermissionError):
            _sync(self._folder.parent)
        self._is_rooted = True

    def _sweep(self) -> tuple[list[EscrowEntry], frozenset[str]]:
        self._clean()
        return self._read("")

    def _clean(self) -> None:
        """Remove what crashes left half done: no `put` ever vouched for it."""
        for name in filter(_TEMPORARY.fullmatch, self._names()):
            path = self._folder / name
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > STALE.total_seconds():
                    path.unlink()

    def _read(self, prefix: str) -> tuple[list[EscrowEntry], frozenset[str]]:
        """The entries whose files begin with *prefix*, and the names of those that cannot be read."""
        found: list[EscrowEntry] = []
        unreadable: set[str] = set()
        for name in self._names():
            if not name.startswith(prefix) or not _NAME.fullmatch(name):
                continue
            try:
                found.append(_read_entry(self._folder / name))
            except FileNotFoundError:
                continue  # its answer has arrived since the folder was listed
            except (OSError, ValueError):
                unreadable.add(name)
        return oldest_first(found), frozenset(unreadable)

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            self._check_that_none_was_made()
            return []

    def _unlink(self, name: str) -> None:
        try:
            (self._folder / name).unlink(missing_ok=True)
            _sync(self._folder)  # also if the file was gone already: whoever removed it may have failed just here
        except FileNotFoundError:
            self._check_that_none_was_made()

    def _check_that_none_was_made(self) -> None:
        """Return if the folder is absent because nothing was ever kept.

        Raises:
            OSError: it leads nowhere, or whatever should hold it is away.
        """
        if self._folder.is_symlink() or not self._folder.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the spool folder is away")


async def _in_thread(work: Callable[[], T]) -> T:
    """What *work* returns.

    Raises:
        EscrowUnavailable: it failed or hung; the message names the kind of failure and nothing else.
    """
    try:
        async with asyncio.timeout(DEADLINE.total_seconds()):
            return await asyncio.to_thread(work)
    except OSError as failure:
        kind = errno.errorcode.get(failure.errno or 0, type(failure).__name__)
    except (ValueError, RuntimeError) as failure:  # no envelope for it, no thread to be had
        kind = type(failure).__name__
    raise EscrowUnavailable(f"the spool folder failed: {kind}")


def _name(entry: EscrowEntry) -> str:
    """Shows neither user nor secret, and leads out of no folder, whatever the attempt's id may be."""
    attempt = entry.attempt_id
    if not _PLAIN_ID.fullmatch(attempt):
        attempt = "x" + hashlib.sha256(attempt.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{grant_digest(entry.grant)}-{attempt}.json"


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _read_entry(path: Path) -> EscrowEntry:
    # Nothing but a regular file is opened in earnest: a pipe would be waited for, a link may lead anywhere.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            entry = from_bytes(file.read())
    finally:
        os.close(descriptor)
    if _name(entry) != path.name:
        raise ValueError("an entry under another's name")
    return entry


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
