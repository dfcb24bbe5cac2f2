"""Real servers on loopback for tests, each in a scratch folder of its own: PostgreSQL, MLflow's tracking
server, and Dask with its workers."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

SECONDS = 60.0  # to start or to stop, on a busy machine
USER = "sweeper"


def free_port() -> int:
    """A loopback port that is free now.

    Not one that the system gives to clients: a client that tries to reach a stopped server could be given the very port
    it tries, and then keeps it from the server.
    """
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


def wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until an address of a process is there.

    Raises:
        RuntimeError: it ends, or is not there in time; with what it printed.
    """
    end = time.monotonic() + 2 * SECONDS
    while True:
        try:
            return urlopen(address, timeout=5).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{address} does not answer:\n{log.read_text()}") from None
            time.sleep(0.1)


def ended_with_us(name: str, command: list[str]) -> list[str]:
    """The command, which Linux sends a signal when this process ends, even if it is killed."""
    return ["setpriv", "--pdeathsig", name, *command] if shutil.which("setpriv") else command


@dataclass
class PostgresServer:
    """A PostgreSQL server.

    Args:
        binaries: the folder of `initdb` and `postgres`.
        folder: holds its data and its log.
        owner: who runs it, as arguments for `subprocess`.
        port: on loopback, the same after a restart.
        password: of its user; stands in every URL, must be quoted there, and may never be printed.
    """

    binaries: Path
    folder: Path
    owner: dict[str, Any]
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: f"{secrets.token_hex(8)}@/%", repr=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of its first database."""
        return self._address("postgres")

    def start(self) -> None:
        """Starts it unless it runs, and waits until it answers.

        Raises:
            RuntimeError: it does not start; with what it printed.
        """
        if self.process is not None and self.process.poll() is None:
            return
        # a crash of the machine may cost the data, a crash of the server may not: no fsync, but every commit written
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [str(self.binaries / "postgres"), "-D", "data", *settings]
        with (self.folder / "log").open("ab") as log:
            # in a session of its own, Ctrl-C leaves it to us to stop it
            self.process = subprocess.Popen(
                ended_with_us("INT", command),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self.owner,
            )
        self._wait(self.process)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops it: SIGINT cuts off its clients and saves, SIGQUIT is a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(SECONDS)

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Gives the SQLAlchemy URL of a new database; starts the server if it does not run."""
        name = f"test_{secrets.token_hex(4)}"
        self._execute(f"CREATE DATABASE {name}")
        try:
            yield self._address(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def create(self) -> None:
        """Makes its folder ready for the first start."""
        file = self.folder / "password"
        file.write_text(self.password)
        options = [f"--username={USER}", f"--pwfile={file}", "--auth=scram-sha-256", "--no-locale", "--encoding=UTF8"]
        command = [str(self.binaries / "initdb"), "--no-sync", "--no-instructions", *options, "data"]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, **self.owner)
        file.unlink()

    def _address(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{database}"

    def _execute(self, statement: str) -> None:
        import psycopg

        self.start()
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute(statement)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        import psycopg

        end = time.monotonic() + SECONDS
        while True:
            try:
                return psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"PostgreSQL does not start:\n{(self.folder / 'log').read_text()}") from None
            time.sleep(0.02)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A new PostgreSQL server, started; at the end it is stopped and its data deleted."""
    binaries, owner = _postgres_binaries(), _not_root()
    # another user may not be let into the folder that TMPDIR names
    with TemporaryDirectory(prefix="postgres-", dir="/tmp" if owner else None, ignore_cleanup_errors=True) as folder:
        server = PostgresServer(binaries, Path(folder), owner)
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        try:
            server.create()
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@dataclass
class TrackingServer:
    """MLflow's tracking server on loopback, which keeps runs in a database and artifacts in its folder.

    Args:
        database: SQLAlchemy URL; a password in it is quoted.
        folder: of its artifacts and its log.
        port: the same after a restart.
    """

    database: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What `MLFLOW_TRACKING_URI` names it by."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            RuntimeError: it does not start; with what it printed.
        """
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--artifacts-destination", str(self.folder / "artifacts")]
        # in the environment, since it may hold a password
        environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": self.database, "MLFLOW_DISABLE_TELEMETRY": "true"}
        # jobs on language models are none of ours, and take several processes
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ended_with_us("KILL", command), env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until_it_answers(f"{self.url}/health", self.process, self.folder / "log")

    def kill(self) -> None:
        """Ends it and its workers at once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(SECONDS)
            self.process = None


@dataclass(frozen=True)
class DaskCluster:
    """A Dask scheduler and its workers, each a process with one thread.

    Args:
        address: of the scheduler.
        scheduler: its process.
        workers: their processes; one that is killed stays dead.
        log: what they all print.
    """

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]
    log: Path


@contextmanager
def dask_cluster(workers: int, folder: Path | None = None) -> Iterator[DaskCluster]:
    """A new Dask cluster, all its workers registered; at the end its processes are killed.

    Args:
        workers: how many.
        folder: in which they work; by default where this process does.

    Raises:
        RuntimeError: not all are there in time; with what they printed.
    """
    from distributed import Client

    with TemporaryDirectory(prefix="dask-", ignore_cleanup_errors=True) as scratch, ExitStack() as running:
        address, log = f"tcp://127.0.0.1:{free_port()}", Path(scratch, "log")

        def start(kind: str, *options: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "dask", kind, *options, "--dashboard-address", "127.0.0.1:0"]
            return running.enter_context(_running(command, log, folder, DASK_TEMPORARY_DIRECTORY=scratch))

        scheduler = start("scheduler", "--host", address, "--no-dashboard")
        # without a nanny a killed worker stays dead; without a limit a large one is not
        alone = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0"]
        started = [start("worker", address, *alone, "--no-dashboard", "--host", "127.0.0.1") for _ in range(workers)]
        try:
            with Client(address, timeout=SECONDS) as client:
                client.wait_for_workers(workers, timeout=SECONDS)
        except OSError:
            raise RuntimeError(f"the Dask cluster does not start:\n{log.read_text()}") from None
        yield DaskCluster(address, scheduler, started, log)


@contextmanager
def _running(
    command: list[str], log: Path, folder: Path | None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen(
            ended_with_us("KILL", command),
            cwd=folder,
            # what tests define is found by name
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _postgres_binaries() -> Path:
    # Debian keeps them off PATH, one folder per version
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    path = os.pathsep.join([*map(str, reversed(debian)), os.environ.get("PATH", "")])
    initdb = shutil.which("initdb", path=path)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return Path(initdb).resolve().parent


def _not_root() -> dict[str, Any]:
    """As whom `subprocess` runs PostgreSQL, which refuses to run as root; empty for an ordinary user."""
    if os.geteuid() != 0:
        return {}
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
