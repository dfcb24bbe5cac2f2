"""The catalogue's facts, and fetching when all goes well: from folders, from file URLs, over loopback HTTP."""

import gzip
import hashlib
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.data.download import CATALOG, Entry, File, describe, fetch, fetch_entry
from bilstm_attention.errors import FetchError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(*files: File, alternates: tuple[File, ...] = (), folders: tuple[str, ...] = ()) -> Entry:
    return Entry("toy", "A toy", "CC0", "https://example.org", files, alternates, folders, note="only a mirror has it")


def known(path: str, content: bytes, address: str | None = None) -> File:
    return File(path, sha256(content), len(content), address)


class Server(ThreadingHTTPServer):
    """Serves a folder and keeps what was asked of it."""

    def __init__(self, folder: Path) -> None:
        asked: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, *_: object) -> None:
                asked.append(self.requestline.split()[1])  # as sent: `path` has double slashes mended

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked = asked
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


def test_every_checksum_is_a_sha256_and_every_address_is_encrypted() -> None:
    for each in CATALOG.values():
        for file in (*each.files, *each.alternates):
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256), file
            assert file.address is None or file.address.startswith("https://"), file
        assert all(file.sha256 and file.size for file in each.files)
        assert each.note or all(file.address for file in each.files), "an entry without address says what to do"
        assert each.source.startswith("https://")


def test_the_table_names_licence_and_size_of_every_entry() -> None:
    rows = {row["name"]: row for row in describe()}
    assert list(rows) == list(CATALOG)
    assert [row["licence"] for row in rows.values()] == ["CC BY 3.0", "PDDL 1.0", "CC BY 4.0"]
    assert [row["size"] for row in rows.values()] == ["1.9 MB", "862.2 MB", "1.2 MB"]
    assert all(row["what"] and row["source"] for row in rows.values())


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("semeval2010-task8", {"TRAIN_FILE.TXT", "TEST_FILE_FULL.TXT"}),
        ("glove-6b", {"glove.6B.50d.txt.gz"}),
        ("mr", {"rt-polarity.pos", "rt-polarity.neg"}),
    ],
)
def test_real_files_are_fetched_from_a_mirror_folder(
    real_data: Path, tmp_path: Path, name: str, files: set[str]
) -> None:
    paths = fetch(name, tmp_path, mirror=str(real_data))
    assert {path.relative_to(tmp_path / name).as_posix() for path in paths} == files
    for path in paths:
        assert path.stat().st_size == next(real_data.glob(f"*/{path.name}")).stat().st_size


def test_real_semeval_files_arrive_whole_over_http(real_data: Path, tmp_path: Path, server: Server) -> None:
    (tmp_path / "mirror/semeval2010-task8").symlink_to(real_data / "semeval2010-task8")
    for path in fetch("semeval2010-task8", tmp_path / "external", mirror=server.url, progress=False):
        assert path.read_bytes() == (real_data / "semeval2010-task8" / path.name).read_bytes()


def test_files_come_from_their_addresses_and_keep_their_own_names(tmp_path: Path, server: Server) -> None:
    (tmp_path / "mirror/deep").mkdir()
    for name in "ab":
        (tmp_path / "mirror/deep" / name).write_bytes(name.encode())
    toy = entry(*(known(f"{name}.txt", name.encode(), f"{server.url}/deep/{name}") for name in "ab"))
    paths = fetch_entry(toy, tmp_path / "external", progress=False)
    assert paths == [tmp_path / "external/toy/a.txt", tmp_path / "external/toy/b.txt"]
    assert [path.read_bytes() for path in paths] == [b"a", b"b"]
    assert sorted((tmp_path / "external").rglob("*")) == [tmp_path / "external/toy", *paths], "nothing else is left"


def test_what_is_there_and_right_is_not_asked_for_again(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror/a").write_bytes(b"content")
    toy = entry(known("a", b"content", f"{server.url}/a"))
    [path] = fetch_entry(toy, tmp_path, progress=False)
    written = path.stat().st_mtime_ns
    capsys.readouterr()
    assert fetch_entry(toy, tmp_path, progress=False) == [path]
    assert server.asked == ["/a"]
    assert path.stat().st_mtime_ns == written
    assert f"{path}: already there, sha256 as expected" in capsys.readouterr().out


def test_a_download_shows_its_progress_on_stderr_only_when_asked(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror/a").write_bytes(b"content")
    toy = entry(known("a", b"content", f"{server.url}/a"))
    fetch_entry(toy, tmp_path / "quiet", progress=False)
    assert capsys.readouterr().err == ""
    fetch_entry(toy, tmp_path / "loud", progress=True)
    assert "7.00/7.00" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["toy/a.txt", "plaything/a.txt", "a.txt"])
@pytest.mark.parametrize("kind", ["folder", "file URL", "http URL", "http URL with a slash"])
def test_a_mirror_may_file_things_under_any_known_name(tmp_path: Path, server: Server, place: str, kind: str) -> None:
    mirror = tmp_path / "mirror"
    (mirror / place).parent.mkdir(exist_ok=True)
    (mirror / place).write_bytes(b"content")
    given = {"folder": str(mirror), "file URL": mirror.as_uri(), "http URL": server.url}.get(kind, f"{server.url}/")
    toy = entry(known("a.txt", b"content"), folders=("plaything",))
    [path] = fetch_entry(toy, tmp_path / "external", mirror=given, progress=False)
    assert path == tmp_path / "external/toy/a.txt"
    assert path.read_bytes() == b"content"
    tried = ["/toy/a.txt", "/plaything/a.txt", "/a.txt"]
    assert server.asked == (tried[: tried.index(f"/{place}") + 1] if "http" in kind else [])


def test_a_file_from_a_folder_is_a_copy_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"content")
    source.chmod(0o444)
    [path] = fetch_entry(entry(known("a", b"content")), tmp_path / "external", mirror=str(tmp_path))
    assert not path.is_symlink()
    assert path.stat().st_ino != source.stat().st_ino
    assert path.stat().st_mode & 0o200, "the copy of a read-only file can be written"


VECTORS = b"the 0.1 0.2\n"
GLOVE = entry(
    known("v.zip", b"archive"),
    alternates=(known("v.50d.txt.gz", VECTORS), known("v.50d.txt", VECTORS), File("v.200d.txt.gz", None)),
)


@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize(
    ("held", "fetched"),
    [
        (["v.zip", "v.50d.txt.gz"], ["v.zip"]),
        (["v.50d.txt.gz", "v.50d.txt"], ["v.50d.txt.gz"]),
        (["v.50d.txt"], ["v.50d.txt"]),
        (["v.50d.txt", "v.200d.txt.gz"], ["v.50d.txt", "v.200d.txt.gz"]),
    ],
)
def test_a_mirror_without_the_archive_gives_the_vector_files_it_has(
    tmp_path: Path, server: Server, held: list[str], fetched: list[str], over_http: bool
) -> None:
    contents = {
        "v.zip": b"archive",
        "v.50d.txt": VECTORS,
        "v.50d.txt.gz": gzip.compress(VECTORS),
        "v.200d.txt.gz": gzip.compress(VECTORS),
    }
    for name in held:
        (tmp_path / "mirror" / name).write_bytes(contents[name])
    mirror = server.url if over_http else str(tmp_path / "mirror")
    paths = fetch_entry(GLOVE, tmp_path / "external", mirror=mirror, progress=False)
    assert [path.name for path in paths] == fetched
    assert [path.read_bytes() for path in paths] == [contents[name] for name in fetched], "kept as fetched"


def test_a_packed_file_is_judged_by_its_content_however_it_was_packed(tmp_path: Path) -> None:
    for level in (0, 9):
        mirror = tmp_path / str(level)
        mirror.mkdir()
        (mirror / "v.50d.txt.gz").write_bytes(gzip.compress(VECTORS, level, mtime=level))
        [path] = fetch_entry(GLOVE, mirror / "external", mirror=str(mirror))
        assert gzip.decompress(path.read_bytes()) == VECTORS


def test_a_file_without_known_checksum_is_taken_and_said_to_be_unverified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.200d.txt.gz").write_bytes(gzip.compress(VECTORS))
    fetch_entry(GLOVE, tmp_path / "external", mirror=str(tmp_path))
    told = capsys.readouterr().out
    assert "NOT VERIFIED: no checksum of it is known" in told
    assert sha256(VECTORS) in told
    assert "as expected" not in told


def test_the_members_the_catalogue_knows_are_those_of_the_archive() -> None:
    names = {file.path for file in CATALOG["glove-6b"].alternates}
    assert names == {f"glove.6B.{size}d.txt{end}" for size in (50, 100, 200, 300) for end in ("", ".gz")}


def test_a_zip_is_kept_zipped(tmp_path: Path) -> None:
    archive = tmp_path / "v.zip"
    with zipfile.ZipFile(archive, "w") as packing:
        packing.writestr("v.50d.txt", VECTORS)
    toy = entry(known("v.zip", archive.read_bytes()))
    [path] = fetch_entry(toy, tmp_path / "external", mirror=str(tmp_path))
    assert zipfile.ZipFile(path).read("v.50d.txt") == VECTORS


@settings(max_examples=30)
@given(wanted=st.binary(max_size=50), held=st.binary(max_size=50))
def test_a_file_is_stored_exactly_when_it_holds_what_the_catalogue_says(wanted: bytes, held: bytes) -> None:
    with TemporaryDirectory() as temporary:
        mirror = Path(temporary)
        for content in (wanted, held):
            (mirror / "a").write_bytes(content)
            target = mirror / "external/toy/a"
            if content == wanted:
                assert fetch_entry(entry(known("a", wanted)), mirror / "external", mirror=str(mirror)) == [target]
                assert target.read_bytes() == wanted
                target.unlink()
            else:
                with pytest.raises(FetchError, match=sha256(held)):
                    fetch_entry(entry(known("a", wanted)), mirror / "external", mirror=str(mirror))
                assert not target.exists()
