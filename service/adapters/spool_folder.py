"""What can be wrong with the spool's folder, before it is needed."""

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

LEAST_FREE = 64 * 1024 * 1024
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_MOUNTS = Path("/proc/self/mounts")


def examine(folder: Path) -> str | None:
    """What somebody has to do before answers can wait in *folder*; None when nothing. Leaves everything as it was."""
    folder = folder.absolute()
    place = folder if folder.exists() else folder.parent
    if folder.is_symlink() and not folder.exists():
        return "it is a link that leads nowhere"
    if not place.is_dir():
        return "it is not a folder" if folder.exists() else "its parent does not exist: mount or make it"
    if place == folder and (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        return f"others may look into it (mode {mode:04o}): chmod 700"
    if not os.access(place, os.W_OK | os.X_OK) or (place == folder and not _takes_a_file(folder)):
        return "this user cannot write there"
    if filesystem_of(place) in _IN_MEMORY:
        return "it is in memory and does not outlive the machine: put it on a disk"
    if shutil.disk_usage(place).free < LEAST_FREE:
        return "its disk is full"
    return None


def filesystem_of(place: Path) -> str | None:
    """The kind of filesystem that holds *place*; None where nobody tells."""
    try:
        mounts = [line.split(" ")[1:3] for line in _MOUNTS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    real, found = place.resolve(), (-1, "")
    for point, kind in mounts:
        if real.is_relative_to(point.replace("\\040", " ")) and len(point) >= found[0]:
            found = len(point), kind
    return found[1] or None


def _takes_a_file(folder: Path) -> bool:
    trial = folder / f".{secrets.token_hex(16)}.tmp"
    try:
        with trial.open("xb") as file:
            file.write(b"token-broker doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            trial.unlink()
    return True
