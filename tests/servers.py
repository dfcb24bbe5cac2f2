"""Servers on loopback for slow tests, each in a folder of its own: PostgreSQL, MLflow's tracking server."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

SECONDS = 240.0  # to start or to stop, on a busy machine
USER = "sweeper"


def free_port() -> int:
    """A free loopback port, none that the system gives to clients, one of which could take that of a stopped server."""
    while True:
        # not random.random, which tests may seed alike in two processes
        port = SystemRandom().randrange(20000, 32768)
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def start(command: list[str], log: Path, death_signal: str = "KILL", **options: Any) -> subprocess.Popen[bytes]:
    """Starts a server in a session of its own, which Linux ends with this process."""
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", death_signal, *command]
    options |= {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, **options)


def wait_for(connect: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a connection succeeds; the error of a server that ends or stays silent has its log."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return connect().close()
        except Exception as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{process.args} does not answer:\n{log.read_text()}") from error
            time.sleep(0.1)


def wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a web server answers at an address."""
    wait_for(lambda: urlopen(address, timeout=20), process, log)


class PostgresServer:
    """A PostgreSQL server, which keeps its port when it is started again.

    Args:
        binaries: the folder of `initdb` and `postgres`.
        folder: of its data and its log.
        owner: the user who runs it, as arguments of `subprocess`.
    """

    def __init__(self, binaries: Path, folder: Path, owner: dict[str, Any]) -> None:
        self.binaries, self.folder, self.owner = binaries, folder, owner
        self.port = free_port()
        # quoted in every URL, and may never be printed
        self.password = f"{secrets.token_hex(8)}@/%"
        self.process: subprocess.Popen[bytes] | None = None
        file = folder / "password"
        file.write_text(self.password)
        options = [f"--username={USER}", f"--pwfile={file}", "--auth=scram-sha-256", "--no-locale", "--encoding=UTF8"]
        command = [str(binaries / "initdb"), "--no-sync", "--no-instructions", *options, "data"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **owner)
        file.unlink()

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it unless it runs, and waits until it answers."""
        import psycopg

        if self.process is not None and self.process.poll() is None:
            return
        # a crash of the machine may cost the data, a crash of the server may not: no fsync, but every commit written
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command, log = [str(self.binaries / "postgres"), "-D", "data", *settings], self.folder / "log"
        self.process = start(command, log, "INT", cwd=self.folder, **self.owner)
        wait_for(lambda: psycopg.connect(self.url(), connect_timeout=20), self.process, log)

    def stop(self) -> None:
        """Stops it at once, as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(SECONDS)

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Gives the URL of a new database; starts the server if it does not run."""
        name = f"test_{secrets.token_hex(4)}"
        self._execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        import psycopg

        self.start()
        with closing(psycopg.connect(self.url(), autocommit=True)) as connection:
            connection.execute(statement)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A new PostgreSQL server, started; without its programs, the test is skipped."""
    # Debian keeps them off PATH, one folder per version
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: -float(folder.parent.name))
    initdb = shutil.which("initdb", path=os.pathsep.join([*map(str, debian), os.environ["PATH"]]))
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # another user may not be let into the folder that TMPDIR names
    root = os.geteuid() == 0
    with TemporaryDirectory(prefix="postgres-", dir="/tmp" if root else None, ignore_cleanup_errors=True) as folder:
        owner: dict[str, Any] = {}
        if root:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("postgres")
            owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = PostgresServer(Path(initdb).resolve().parent, Path(folder), owner)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@dataclass
class TrackingServer:
    """MLflow's tracking server, which keeps runs in a database and artifacts in its folder.

    Args:
        database: SQLAlchemy URL; a password in it is quoted.
        folder: of its artifacts and its log.
    """

    database: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `MLFLOW_TRACKING_URI`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--artifacts-destination", str(self.folder / "artifacts")]
        # in the environment, since it may hold a password; without jobs on language models, which are several processes
        settings = {"MLFLOW_BACKEND_STORE_URI": self.database, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment = {**os.environ, **settings, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self.process = start(command, self.folder / "log", env=environment)
        wait_until_it_answers(f"{self.url}/health", self.process, self.folder / "log")

    def kill(self) -> None:
        """Ends it and its workers at once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(SECONDS)
            self.process = None
