"""The catalogue, and fetching from folders and over loopback HTTP; one that fails says why, and stores nothing."""

import gzip
import hashlib
import re
import socket
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from tests.small import write

from bilstm_attention.data import download
from bilstm_attention.data.download import CATALOG, Entry, File, describe, fetch, fetch_entry
from bilstm_attention.errors import FetchError

CONTENT = b"0123456789" * 100
Answer = Callable[[BaseHTTPRequestHandler], None]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(*files: File, alternates: tuple[File, ...] = (), folders: tuple[str, ...] = ()) -> Entry:
    return Entry("toy", "A toy", "CC0", "https://example.org", files, alternates, folders, note="only a mirror has it")


def known(path: str, content: bytes, address: str | None = None) -> File:
    return File(path, sha256(content), len(content), address)


def content_entry(*addresses: str | None, checksum: str | None = sha256(CONTENT)) -> Entry:
    """An entry of one file of `CONTENT` for each address: a.txt, b.txt."""
    files = zip("ab", addresses, strict=False)
    return entry(*(File(f"{name}.txt", checksum, len(CONTENT), url) for name, url in files))


def refused(folder: Path, message: str, toy: Entry, mirror: object = None) -> str:
    """The message of a fetch that fails and stores nothing."""
    with pytest.raises(FetchError, match=message) as caught:
        fetch_entry(toy, folder, mirror and str(mirror), progress=False)
    assert [path for path in folder.rglob("*") if path.name != "toy" and path.suffix != ".part"] == []
    return str(caught.value)


class Server(ThreadingHTTPServer):
    """Serves a folder, or gives the one `answer` to every GET; records the requested paths."""

    def __init__(self, folder: Path) -> None:
        requested: list[str] = []
        self.answer: Answer = SimpleHTTPRequestHandler.do_GET

        class Handler(SimpleHTTPRequestHandler):
            server: Server

            def do_GET(self) -> None:
                self.server.answer(self)

            def log_request(self, *_: object) -> None:
                requested.append(self.requestline.split()[1])  # as sent: `path` has double slashes removed

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.requested, self.ended = requested, Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves `tmp_path / "mirror"`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "mirror").mkdir()
    with Server(tmp_path / "mirror") as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


def test_catalogue_has_checksums_encrypted_addresses_and_licences():
    for each in CATALOG.values():
        for file in (*each.files, *each.alternates):
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256), file
            assert file.address is None or file.address.startswith("https://"), file
        assert all(file.sha256 and file.size for file in each.files)
        assert each.note or all(file.address for file in each.files)
        assert each.source.startswith("https://")
    rows = describe()
    assert [row["name"] for row in rows] == list(CATALOG)
    assert [row["licence"] for row in rows] == ["CC BY 3.0", "PDDL 1.0", "CC BY 4.0"]
    assert [row["size"] for row in rows] == ["1.9 MB", "862.2 MB", "1.2 MB"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("semeval2010-task8", ["TEST_FILE_FULL.TXT", "TRAIN_FILE.TXT"]),
        ("glove-6b", ["glove.6B.50d.txt"]),
        ("mr", ["rt-polarity.neg", "rt-polarity.pos"]),
    ],
)
def test_real_files_come_from_a_mirror_folder(real_data, tmp_path, name, files):
    assert sorted(fetch(name, tmp_path, mirror=str(real_data))) == [tmp_path / name / file for file in files]


def test_files_come_from_their_addresses_with_progress_on_stderr(tmp_path, server, capsys):
    for name in "ab":
        write(tmp_path / "mirror/deep" / name, name)
    toy = entry(*(known(f"{name}.txt", name.encode(), f"{server.url}/deep/{name}") for name in "ab"))
    paths = fetch_entry(toy, tmp_path / "external", progress=False)
    assert capsys.readouterr().err == ""
    assert [path.read_bytes() for path in paths] == [b"a", b"b"]
    assert sorted((tmp_path / "external").rglob("*")) == [tmp_path / "external/toy", *paths]
    # a correct file is not requested again
    assert fetch_entry(toy, tmp_path / "external", progress=False) == paths
    assert server.requested == ["/deep/a", "/deep/b"]
    assert f"{paths[0]}: exists, sha256 verified" in capsys.readouterr().out
    fetch_entry(toy, tmp_path / "again", progress=True)
    assert "1.00/1.00" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["toy/a.txt", "plaything/a.txt", "a.txt", "toy/a.txt.gz"])
@pytest.mark.parametrize("kind", ["folder", "http URL", "http URL with a slash"])
def test_mirror_may_hold_a_file_under_any_known_name(tmp_path, server, place, kind):
    write(tmp_path / "mirror" / place, gzip.compress(b"content") if place.endswith(".gz") else b"content")
    address = {"folder": str(tmp_path / "mirror"), "http URL": server.url}.get(kind, f"{server.url}/")
    toy = entry(known("a.txt", b"content"), folders=("plaything",))
    [path] = fetch_entry(toy, tmp_path / "external", mirror=address, progress=False)
    assert path == tmp_path / "external/toy/a.txt"
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o044
    assert list(path.parent.iterdir()) == [path]
    tried = ["/toy/a.txt", "/plaything/a.txt", "/a.txt", "/toy/a.txt.gz"]
    assert server.requested == (tried[: tried.index(f"/{place}") + 1] if "http" in kind else [])


VECTORS = b"the 0.1 0.2\n"
GLOVE = entry(known("v.zip", b"archive"), alternates=(known("v.50d.txt", VECTORS), File("v.200d.txt", None)))


@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize(
    ("held", "fetched"),
    [
        (["v.zip", "v.50d.txt.gz"], ["v.zip"]),
        (["v.50d.txt.gz"], ["v.50d.txt"]),
        (["v.50d.txt", "v.200d.txt.gz"], ["v.50d.txt", "v.200d.txt"]),
    ],
)
def test_mirror_without_the_archive_gives_its_vector_files(tmp_path, server, capsys, held, fetched, over_http):
    for name in held:
        content = b"archive" if name == "v.zip" else VECTORS
        write(tmp_path / "mirror" / name, gzip.compress(content) if name.endswith(".gz") else content)
    mirror = server.url if over_http else str(tmp_path / "mirror")
    paths = fetch_entry(GLOVE, tmp_path / "external", mirror=mirror, progress=False)
    assert [path.name for path in paths] == fetched
    assert {path.read_bytes() for path in paths} == {b"archive" if "v.zip" in held else VECTORS}
    unverified = f"NOT VERIFIED, no checksum is known; sha256 {sha256(VECTORS)}" in capsys.readouterr().out
    assert unverified == ("v.200d.txt" in fetched)


@pytest.mark.parametrize("ranges", [True, False], ids=["a server with ranges", "without"])
@pytest.mark.parametrize("left", [b"0123", b"0123456789", b"wrong"])
def test_cut_off_download_resumes(tmp_path, server, left, ranges):
    content, sent = b"0123456789", list[bytes]()

    def answer(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
        sent.append(content[start:])
        handler.send_response(416 if start >= len(content) else 206 if start else 200)
        handler.send_header("Content-Length", str(len(sent[-1])))
        handler.end_headers()
        handler.wfile.write(sent[-1])

    server.answer = answer
    write(tmp_path / "toy/a.txt.part", left)
    toy = entry(known("a.txt", content, f"{server.url}/a.txt"))
    if ranges and left != b"0123":
        # no such bytes, or not those of this file: the next start is from the beginning
        with pytest.raises(FetchError, match="try again"):
            fetch_entry(toy, tmp_path, progress=False)
    [path] = fetch_entry(toy, tmp_path, progress=False)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    assert sent[-1] == (b"456789" if ranges and left == b"0123" else content)


@pytest.mark.parametrize("over_http", [False, True])
def test_wrong_content_is_refused_with_both_checksums(tmp_path, server, over_http):
    wrong = CONTENT[:-1] + b"x"
    write(tmp_path / "mirror/a.txt", wrong)
    mirror = server.url if over_http else str(tmp_path / "mirror")
    message = refused(tmp_path / "external", "known hash", content_entry(None), mirror)
    assert all(part in message for part in (sha256(CONTENT), sha256(wrong), mirror))


def test_wrong_file_that_exists_is_named_and_left_unchanged(tmp_path):
    target = write(tmp_path / "external/toy/a.txt", b"edited by hand")
    write(tmp_path / "a.txt", CONTENT)
    message = rf"{target}: exists, but its sha256 is .*, not {sha256(CONTENT)}; .* delete it"
    with pytest.raises(FetchError, match=message):
        fetch_entry(content_entry(None), tmp_path / "external", mirror=str(tmp_path))
    assert target.read_bytes() == b"edited by hand"


def test_fault_in_one_file_keeps_the_correct_ones(tmp_path):
    write(tmp_path / "a.txt", CONTENT)
    write(tmp_path / "b.txt", b"wrong")
    with pytest.raises(FetchError, match=r"b\.txt"):
        fetch_entry(content_entry(None, None), tmp_path / "external", mirror=str(tmp_path))
    assert list((tmp_path / "external/toy").iterdir()) == [tmp_path / "external/toy/a.txt"]


def body(content: bytes, length: int | None = None, wait: bool = False) -> Answer:
    """Sends a content, whatever length it announces; `wait`s then for the end of the test."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()
        if wait:
            handler.server.ended.wait()

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda handler: handler.send_error(404), r"not found; pass --mirror DIR_OR_URL .*\n.*/a\.txt"),
        (lambda handler: handler.send_error(500), "500 Server Error.*try again"),
        (body(CONTENT[:10], length=len(CONTENT)), "10 bytes read, 990 more expected.*try again"),
        (body(b""), "does not match the known hash"),
        (lambda handler: handler.server.ended.wait(), "timed out.*try again"),
        (body(CONTENT[:10], length=len(CONTENT), wait=True), "timed out.*try again"),
    ],
    ids=["404", "500", "truncated", "empty", "silent", "silent after some bytes"],
)
def test_failing_server_stores_nothing(tmp_path, server, monkeypatch, answer, message):
    if "timed out" in message:
        monkeypatch.setattr(download, "TIMEOUT", 0.5)
    server.answer, address = answer, f"{server.url}/a.txt"
    assert address in refused(tmp_path / "external", message, content_entry(address))


def test_refused_connection_is_one_plain_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as bound:  # not listening: the port is taken, and nothing answers
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/a.txt"
        message = rf"^\S+a\.txt: not fetched from {address}: .*Connection refused; [^\n]*$"
        refused(tmp_path, message, content_entry(address))


def test_mirror_without_the_files_lists_where_it_looked(tmp_path):
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
def test_impossible_request_says_what_is_possible(tmp_path, name, mirror, message):
    with pytest.raises(FetchError, match=message):
        fetch(name, tmp_path, mirror=mirror)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(CONTENT)[:-9], CONTENT, gzip.compress(CONTENT)[:10] + b"\xff" * 30],
    ids=["truncated", "not gzip", "damaged"],
)
@pytest.mark.parametrize("checksum", [sha256(CONTENT), None], ids=["checksum", "none"])
def test_damaged_gzip_is_refused(tmp_path, packed, checksum):
    write(tmp_path / "mirror/a.txt.gz", packed)
    toy = content_entry(None, checksum=checksum)
    refused(tmp_path / "external", "not a complete gzip file", toy, tmp_path / "mirror")


def test_folder_that_cannot_be_made_or_written_is_named(tmp_path):
    write(tmp_path / "a.txt", CONTENT)
    write(tmp_path / "external", "in the way")
    with pytest.raises(FetchError, match=r"external.*(Not a directory|File exists).*check free space"):
        fetch_entry(content_entry(None), tmp_path / "external", mirror=str(tmp_path))
