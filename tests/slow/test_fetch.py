"""A fetch that fails says what, where and what to do; it stores no partial file and changes no correct one."""

import gzip
import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bilstm_attention.data import download
from bilstm_attention.data.download import Entry, File, fetch, fetch_entry
from bilstm_attention.errors import FetchError

CONTENT = b"0123456789" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], None]


def entry(*addresses: str | None, sha256: str | None = SHA256) -> Entry:
    """An entry of one file for each address: a.txt, b.txt."""
    files = (File(f"{name}.txt", sha256, len(CONTENT), address) for name, address in zip("ab", addresses, strict=False))
    return Entry("toy", "A toy", "CC0", "https://example.org", tuple(files))


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name != "toy" and path.suffix != ".part"]


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def body(content: bytes, announced: int | None = None, then: Callable[[], None] = lambda: None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()
        then()

    return answer


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """Starts a server that gives one answer to every GET; returns its URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

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
    tmp_path: Path, serve: Callable[[Answer], str], over_http: bool
) -> None:
    wrong = CONTENT[:-1] + b"x"
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a.txt").write_bytes(wrong)
    mirror = serve(body(wrong)) if over_http else str(tmp_path / "mirror")
    with pytest.raises(FetchError) as caught:
        fetch_entry(entry(None), tmp_path / "external", mirror=mirror, progress=False)
    for part in (SHA256, hashlib.sha256(wrong).hexdigest(), mirror):
        assert part in str(caught.value)
    assert stored(tmp_path / "external") == []


def test_wrong_file_that_exists_is_named_and_left_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "external/toy/a.txt"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"edited by hand")
    (tmp_path / "a.txt").write_bytes(CONTENT)
    with pytest.raises(FetchError, match=rf"{target}: exists, but its sha256 is .*, not {SHA256}; .* delete it"):
        fetch_entry(entry(None), tmp_path / "external", mirror=str(tmp_path))
    assert target.read_bytes() == b"edited by hand"


def test_fault_in_one_file_keeps_the_correct_ones(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    (tmp_path / "b.txt").write_bytes(b"wrong")
    with pytest.raises(FetchError, match=r"b\.txt"):
        fetch_entry(entry(None, None), tmp_path / "external", mirror=str(tmp_path))
    assert stored(tmp_path / "external") == [tmp_path / "external/toy/a.txt"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(404), r"not found; pass --mirror DIR_OR_URL .*\n.*/a\.txt"),
        (status(500), "500 Server Error.*try again"),
        (status(403), "403 Client Error.*try again"),
        (body(CONTENT[:10], announced=len(CONTENT)), "10 bytes read, 990 more expected.*try again"),
        (body(b""), "does not match the known hash"),
        (lambda handler: time.sleep(6), "timed out.*try again"),
        (body(CONTENT[:10], announced=len(CONTENT), then=lambda: time.sleep(6)), "timed out.*try again"),
    ],
    ids=["404", "500", "403", "truncated", "empty", "silent", "silent after some bytes"],
)
def test_failing_server_stores_nothing(
    tmp_path: Path, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch, answer: Answer, message: str
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 2)  # seconds; a busy machine answers within them
    address = f"{serve(answer)}/a.txt"
    with pytest.raises(FetchError, match=message) as caught:
        fetch_entry(entry(address), tmp_path, progress=False)
    assert address in str(caught.value)
    assert stored(tmp_path) == []


def test_refused_connection_is_one_plain_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as bound:  # not listening: the port is taken, and nothing answers
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/a.txt"
        with pytest.raises(FetchError, match=rf"^\S+a\.txt: not fetched from {address}: .*Connection refused; [^\n]*$"):
            fetch_entry(entry(address), tmp_path, progress=False)
    assert stored(tmp_path) == []


def test_mirror_without_the_files_lists_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(FetchError) as caught:
        fetch("glove-6b", tmp_path / "external", mirror=str(tmp_path / "mirror"))
    for place in ("glove-6b/glove.6B.zip", "glove/glove.6B.50d.txt.gz", "glove.6B.300d.txt"):
        assert str(tmp_path / "mirror" / place) in str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "mirror", "message"),
    [
        ("glove6b", None, r"which holds semeval2010-task8, glove-6b, mr; did you mean 'glove-6b'\?"),
        ("mr", None, "no public address has files with these checksums.*--mirror"),
        ("mr", "/no/such/folder", "--mirror /no/such/folder: no such folder"),
        ("mr", "ftp://example.org/data", "no such folder; use a folder or an http or https URL"),
    ],
)
def test_impossible_request_says_what_is_possible(tmp_path: Path, name: str, mirror: str | None, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        fetch(name, tmp_path, mirror=mirror)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(CONTENT)[:-9], CONTENT, gzip.compress(CONTENT)[:10] + b"\xff" * 30],
    ids=["truncated", "not gzip", "damaged"],
)
@pytest.mark.parametrize("checksum", [SHA256, None])
def test_damaged_gzip_is_refused(tmp_path: Path, packed: bytes, checksum: str | None) -> None:
    (tmp_path / "a.txt.gz").write_bytes(packed)
    with pytest.raises(FetchError, match="not a complete gzip file"):
        fetch_entry(entry(None, sha256=checksum), tmp_path / "external", mirror=str(tmp_path))
    assert stored(tmp_path / "external") == []


def test_folder_that_cannot_be_made_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    (tmp_path / "external").write_bytes(b"in the way")
    with pytest.raises(FetchError, match=r"external.*(Not a directory|File exists).*check free space"):
        fetch_entry(entry(None), tmp_path / "external", mirror=str(tmp_path))
