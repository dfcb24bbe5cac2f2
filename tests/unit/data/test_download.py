"""The catalogue, and fetching from folders and over loopback HTTP when nothing fails."""

import gzip
import hashlib
import re
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bilstm_attention.data.download import CATALOG, Entry, File, describe, fetch, fetch_entry
from bilstm_attention.errors import FetchError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(*files: File, alternates: tuple[File, ...] = (), folders: tuple[str, ...] = ()) -> Entry:
    return Entry("toy", "A toy", "CC0", "https://example.org", files, alternates, folders, note="only a mirror has it")


def known(path: str, content: bytes, address: str | None = None) -> File:
    return File(path, sha256(content), len(content), address)


class Server(ThreadingHTTPServer):
    """Serves a folder and records the requested paths."""

    def __init__(self, folder: Path) -> None:
        requested: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, *_: object) -> None:
                requested.append(self.requestline.split()[1])  # as sent: `path` has double slashes removed

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.requested = requested
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves `tmp_path / "mirror"`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "mirror").mkdir()
    with Server(tmp_path / "mirror") as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_catalogue_has_checksums_encrypted_addresses_and_licences() -> None:
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
        ("semeval2010-task8", {"TRAIN_FILE.TXT", "TEST_FILE_FULL.TXT"}),
        ("glove-6b", {"glove.6B.50d.txt"}),
        ("mr", {"rt-polarity.pos", "rt-polarity.neg"}),
    ],
)
def test_real_files_come_from_a_mirror_folder(real_data: Path, tmp_path: Path, name: str, files: set[str]) -> None:
    paths = fetch(name, tmp_path, mirror=str(real_data))
    assert {path.relative_to(tmp_path / name).as_posix() for path in paths} == files


def test_files_come_from_their_addresses_with_progress_on_stderr(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror/deep").mkdir()
    for name in "ab":
        (tmp_path / "mirror/deep" / name).write_bytes(name.encode())
    toy = entry(*(known(f"{name}.txt", name.encode(), f"{server.url}/deep/{name}") for name in "ab"))
    paths = fetch_entry(toy, tmp_path / "external", progress=False)
    assert capsys.readouterr().err == ""
    assert [path.read_bytes() for path in paths] == [b"a", b"b"]
    assert sorted((tmp_path / "external").rglob("*")) == [tmp_path / "external/toy", *paths]
    assert paths[0].stat().st_mode & 0o044
    fetch_entry(toy, tmp_path / "again", progress=True)
    assert "1.00/1.00" in capsys.readouterr().err


def test_correct_file_is_not_requested_again(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror/a").write_bytes(b"content")
    toy = entry(known("a", b"content", f"{server.url}/a"))
    assert fetch_entry(toy, tmp_path, progress=False) == fetch_entry(toy, tmp_path, progress=False)
    assert server.requested == ["/a"]
    assert f"{tmp_path}/toy/a: exists, sha256 verified" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["toy/a.txt", "plaything/a.txt", "a.txt", "toy/a.txt.gz"])
@pytest.mark.parametrize("kind", ["folder", "http URL", "http URL with a slash"])
def test_mirror_may_hold_a_file_under_any_known_name(tmp_path: Path, server: Server, place: str, kind: str) -> None:
    mirror = tmp_path / "mirror"
    (mirror / place).parent.mkdir(exist_ok=True)
    (mirror / place).write_bytes(gzip.compress(b"content") if place.endswith(".gz") else b"content")
    address = {"folder": str(mirror), "http URL": server.url}.get(kind, f"{server.url}/")
    toy = entry(known("a.txt", b"content"), folders=("plaything",))
    [path] = fetch_entry(toy, tmp_path / "external", mirror=address, progress=False)
    assert path == tmp_path / "external/toy/a.txt"
    assert path.read_bytes() == b"content"
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
def test_mirror_without_the_archive_gives_its_vector_files(
    tmp_path: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
    held: list[str],
    fetched: list[str],
    over_http: bool,
) -> None:
    packed = gzip.compress(VECTORS)
    contents = {"v.zip": b"archive", "v.50d.txt": VECTORS, "v.50d.txt.gz": packed, "v.200d.txt.gz": packed}
    for name in held:
        (tmp_path / "mirror" / name).write_bytes(contents[name])
    mirror = server.url if over_http else str(tmp_path / "mirror")
    paths = fetch_entry(GLOVE, tmp_path / "external", mirror=mirror, progress=False)
    assert [path.name for path in paths] == fetched
    assert {path.read_bytes() for path in paths} == {b"archive" if "v.zip" in held else VECTORS}
    unverified = f"NOT VERIFIED, no checksum is known; sha256 {sha256(VECTORS)}" in capsys.readouterr().out
    assert unverified == ("v.200d.txt" in fetched)


@pytest.mark.parametrize("ranges", [True, False], ids=["a server with ranges", "without"])
@pytest.mark.parametrize("left", [b"0123", b"0123456789", b"wrong"])
def test_cut_off_download_resumes(
    tmp_path: Path, server: Server, left: bytes, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, sent = b"0123456789", list[bytes]()

    def do_get(handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
        sent.append(content[start:])
        handler.send_response(416 if start >= len(content) else 206 if start else 200)
        handler.send_header("Content-Length", str(len(sent[-1])))
        handler.end_headers()
        handler.wfile.write(sent[-1])

    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", do_get)
    part = tmp_path / "toy/a.txt.part"
    part.parent.mkdir()
    part.write_bytes(left)
    toy = entry(known("a.txt", content, f"{server.url}/a.txt"))
    if ranges and left != b"0123":
        # no such bytes, or not those of this file: the next start is from the beginning
        with pytest.raises(FetchError, match="try again"):
            fetch_entry(toy, tmp_path, progress=False)
    [path] = fetch_entry(toy, tmp_path, progress=False)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    assert sent[-1] == (b"456789" if ranges and left == b"0123" else content)
