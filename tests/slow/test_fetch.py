"""A fetch that goes wrong says what, where and what to do, keeps no half file, and touches no good one."""

import errno
import gzip
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread, main_thread
from types import SimpleNamespace

import pytest

from bilstm_attention.data import download as catalog
from bilstm_attention.data.download import Entry, File, fetch, fetch_entry
from bilstm_attention.errors import FetchError

CONTENT = b"0123456789" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def entry(address: str | None = None, path: str = "a.txt") -> Entry:
    return Entry("toy", "A toy", "CC0", "https://example.org", (File(path, SHA256, len(CONTENT), address),))


def left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name != "toy"]


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


NO_HEAD = status(405)


def body(sent: bytes, announced: int | None = None, then: Callable[[], None] = lambda: None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(sent) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(sent)
        handler.wfile.flush()
        then()

    return answer


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts a server that gives one answer to GET, another to HEAD; returns its URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[ThreadingHTTPServer] = []

    def start(get: Answer, head: Answer = NO_HEAD) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                get(self)

            def do_HEAD(self) -> None:
                head(self)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("over_http", [False, True])
def test_wrong_content_is_refused_with_both_checksums(
    tmp_path: Path, serve: Callable[..., str], over_http: bool
) -> None:
    wrong = CONTENT[:-1] + b"x"
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a.txt").write_bytes(wrong)
    mirror = serve(body(wrong)) if over_http else str(tmp_path / "mirror")
    with pytest.raises(FetchError) as raised:
        fetch_entry(entry(), tmp_path / "external", mirror=mirror, progress=False)
    assert SHA256 in str(raised.value)
    assert hashlib.sha256(wrong).hexdigest() in str(raised.value)
    assert mirror in str(raised.value)
    assert left(tmp_path / "external") == []


def test_a_wrong_file_that_is_there_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "external/toy/a.txt"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"edited by hand")
    (tmp_path / "a.txt").write_bytes(CONTENT)
    with pytest.raises(FetchError, match=rf"{mine}: is there already, but expected sha256 {SHA256}.* delete it"):
        fetch_entry(entry(), tmp_path / "external", mirror=str(tmp_path))
    assert mine.read_bytes() == b"edited by hand"


def test_a_fault_in_one_file_keeps_the_good_ones(tmp_path: Path) -> None:
    toy = Entry("toy", "", "", "", (File("a.txt", SHA256), File("b.txt", SHA256)))
    (tmp_path / "a.txt").write_bytes(CONTENT)
    (tmp_path / "b.txt").write_bytes(b"wrong")
    with pytest.raises(FetchError, match=r"b\.txt"):
        fetch_entry(toy, tmp_path / "external", mirror=str(tmp_path))
    assert left(tmp_path / "external") == [tmp_path / "external/toy/a.txt"]
    assert (tmp_path / "external/toy/a.txt").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status(404), r"not found; give --mirror DIR_OR_URL .*\n.*/a\.txt"),
        (status(500), "500 Server Error.*try again"),
        (status(403), "403 Client Error.*try again"),
        (body(CONTENT[:10], announced=len(CONTENT)), "10 bytes read, 990 more expected.*try again"),
        (body(b""), r"expected sha256 .*\(1000 bytes\), found .*\(0 bytes\)"),
    ],
    ids=["404", "500", "403", "truncated", "empty"],
)
def test_a_server_that_fails_leaves_nothing(
    tmp_path: Path, serve: Callable[..., str], answer: Answer, said: str
) -> None:
    address = f"{serve(answer)}/a.txt"
    with pytest.raises(FetchError, match=said) as raised:
        fetch_entry(entry(address), tmp_path, progress=False)
    assert address in str(raised.value)
    assert left(tmp_path) == []


def test_a_refused_connection_is_said_in_one_plain_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:  # bound, not listening: nobody else gets the port, and nobody answers
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/a.txt"
        with pytest.raises(FetchError, match=rf"^\S+a\.txt: not fetched from {address}: .*Connection refused; [^\n]*$"):
            fetch_entry(entry(address), tmp_path, progress=False)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: time.sleep(1),
        body(CONTENT[:10], announced=len(CONTENT), then=lambda: time.sleep(1)),
    ],
    ids=["before the first byte", "after some bytes"],
)
def test_a_silent_server_is_given_up(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(catalog, "TIMEOUT", 0.2)
    with pytest.raises(FetchError, match=r"timed out.*try again"):
        fetch_entry(entry(f"{serve(answer)}/a.txt"), tmp_path, progress=False)
    assert left(tmp_path) == []


def test_a_mirror_that_holds_nothing_is_told_all_that_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(FetchError) as raised:
        fetch("glove-6b", tmp_path / "external", mirror=str(tmp_path / "mirror"))
    for place in ("glove-6b/glove.6B.zip", "glove/glove.6B.50d.txt.gz", "glove.6B.300d.txt"):
        assert str(tmp_path / "mirror" / place) in str(raised.value).splitlines()
    assert not [path for path in (tmp_path / "external").rglob("*") if path.is_file()]


def test_only_the_file_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    toy = Entry("toy", "", "", "", (File("a.txt", SHA256), File("b.txt", SHA256)))
    with pytest.raises(FetchError) as raised:
        fetch_entry(toy, tmp_path / "external", mirror=str(tmp_path))
    assert str(raised.value).splitlines()[1:] == [str(tmp_path / "toy/b.txt"), str(tmp_path / "b.txt")]


@pytest.mark.parametrize(
    ("name", "mirror", "said"),
    [
        ("glove6b", None, r"which holds semeval2010-task8, glove-6b, mr; did you mean 'glove-6b'\?"),
        ("mr", None, "no public address with these checksums is known.*--mirror"),
        ("mr", "/no/such/folder", "--mirror /no/such/folder: there is no such folder"),
        ("mr", "file:///no/such/folder", "--mirror file:///no/such/folder: there is no such folder"),
        ("mr", "ftp://example.org/data", "ftp is not known here; give a folder or an http, https or file URL"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_can(tmp_path: Path, name: str, mirror: str | None, said: str) -> None:
    with pytest.raises(FetchError, match=said):
        fetch(name, tmp_path, mirror=mirror)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(CONTENT)[:-9], CONTENT, gzip.compress(CONTENT)[:10] + b"\xff" * 30, gzip.compress(b"")],
    ids=["cut short", "not packed", "garbled", "nothing in it"],
)
@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_packed_file_that_does_not_unpack_is_refused(tmp_path: Path, packed: bytes, checksum: str | None) -> None:
    (tmp_path / "a.gz").write_bytes(packed)
    toy = Entry("toy", "", "", "", (File("a.gz", checksum),))
    with pytest.raises(FetchError, match=r"not a whole gzip file|\b0 bytes"):
        fetch_entry(toy, tmp_path / "external", mirror=str(tmp_path))
    assert left(tmp_path / "external") == []


@pytest.mark.parametrize("over_http", [False, True])
def test_a_full_disk_is_noticed_before_the_first_byte(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, over_http: bool
) -> None:
    asked: list[str] = []
    url = serve(lambda handler: asked.append(handler.path), head=status(200))
    (tmp_path / "a.txt").write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    with pytest.raises(FetchError, match=r"needs 1\.0 kB on disk, 999 bytes are free; make room"):
        fetch_entry(entry(), tmp_path / "external", mirror=url if over_http else str(tmp_path), progress=False)
    assert asked == []
    assert left(tmp_path / "external") == []


def test_a_full_disk_does_not_hide_that_a_mirror_lacks_the_file(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    with pytest.raises(FetchError, match="not found"):
        fetch_entry(entry(), tmp_path, mirror=serve(status(404), head=status(404)), progress=False)


def test_a_disk_that_fills_while_copying_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_: Path, part: Path) -> None:
        part.write_bytes(CONTENT[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.txt").write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(FetchError, match=r"No space left on device; nothing was stored; make room"):
        fetch_entry(entry(), tmp_path / "external", mirror=str(tmp_path))
    assert left(tmp_path / "external") == []


def test_room_is_not_asked_for_the_unpacked_size_of_a_packed_file(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    address = f"{serve(body(gzip.compress(CONTENT)), head=status(200))}/a.gz"
    [path] = fetch_entry(entry(address, path="a.gz"), tmp_path, progress=False)
    assert gzip.decompress(path.read_bytes()) == CONTENT


def test_a_file_gets_its_name_by_a_rename_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a.txt").write_bytes(CONTENT)
    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(FetchError, match="Input/output error"):
        fetch_entry(entry(), tmp_path / "external", mirror=str(tmp_path))
    assert left(tmp_path / "external") == []


LIMITED = """
import resource, sys
from pathlib import Path
from bilstm_attention.data.download import Entry, File, fetch_entry
from bilstm_attention.errors import FetchError
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    fetch_entry(Entry("toy", "", "", "", (File("a.txt", sys.argv[1]),)), Path(sys.argv[2]), sys.argv[3], False)
except FetchError as error:
    print(error)
"""


@pytest.mark.parametrize("over_http", [False, True])
def test_a_write_the_system_refuses_leaves_nothing(tmp_path: Path, serve: Callable[..., str], over_http: bool) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    mirror = serve(body(CONTENT)) if over_http else str(tmp_path)
    command = [sys.executable, "-B", "-c", LIMITED, SHA256, str(tmp_path / "external"), mirror]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "File too large" in told
    assert "make room" in told
    assert left(tmp_path / "external") == []


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    (tmp_path / "external").write_bytes(b"in the way")
    with pytest.raises(FetchError, match=r"external.*(Not a directory|File exists)"):
        fetch_entry(entry(), tmp_path / "external", mirror=str(tmp_path))
    assert (tmp_path / "external").read_bytes() == b"in the way"


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write anywhere, so it steps down for the test."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder anybody may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        (folder / "a.txt").write_bytes(CONTENT)
        (folder / "external").mkdir(mode=0o555)
        yield folder


def test_a_folder_that_may_not_be_written_is_named(open_folder: Path, unprivileged: None) -> None:
    with pytest.raises(FetchError, match=rf"Permission denied: '{open_folder}/external.*mend the folder's permissions"):
        fetch_entry(entry(), open_folder / "external", mirror=str(open_folder))


def test_control_c_in_a_download_leaves_nothing(tmp_path: Path, serve: Callable[..., str]) -> None:
    def interrupt() -> None:
        until = time.monotonic() + 5
        while not any(path.stat().st_size for path in tmp_path.rglob("a.txt")) and time.monotonic() < until:
            time.sleep(0.01)  # until some of it is on disk
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.5)

    half = b"x" * (2 * catalog.CHUNK)
    address = f"{serve(body(half, announced=2 * len(half), then=interrupt))}/a.txt"
    # the workers of a distributed test run ignore Control-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch_entry(entry(address), tmp_path, progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert left(tmp_path) == []


def test_control_c_in_a_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Path, part: Path) -> None:
        part.write_bytes(CONTENT[:10])
        raise KeyboardInterrupt

    (tmp_path / "a.txt").write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_entry(entry(), tmp_path / "external", mirror=str(tmp_path))
    assert left(tmp_path / "external") == []
