"""A folder in which answers could not wait is found before one has to."""

import os
from pathlib import Path

import pytest

from service.adapters.spool_folder import examine, filesystem_of

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - what it is asked for


def test_a_folder_that_can_be_made_or_is_there_is_fine_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "escrow"
    assert examine(folder) is None
    assert not folder.exists()
    folder.mkdir(mode=0o700)
    assert examine(folder) is None
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_may_look_into_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    assert examine(tmp_path) == "others may look into it (mode 0750): chmod 700"


def test_a_disk_that_is_not_mounted_is_told(tmp_path: Path) -> None:
    assert examine(tmp_path / "missing" / "escrow") == "its parent does not exist: mount or make it"


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path / "nowhere")
    assert examine(file) == "it is not a folder"
    assert examine(link) == "it is a link that leads nowhere"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    # Root may write everywhere, but not in the kernel's list of this process' open files.
    assert examine(tmp_path if os.geteuid() else Path("/proc/self/fd")) == "this user cannot write there"
    tmp_path.chmod(0o700)


@pytest.mark.skipif(filesystem_of(SHARED_MEMORY) != "tmpfs", reason="there is no filesystem in memory here")
def test_a_folder_in_memory_is_told() -> None:
    assert examine(SHARED_MEMORY / "escrow") == "it is in memory and does not outlive the machine: put it on a disk"
