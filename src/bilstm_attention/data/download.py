"""Downloads known corpora and word vectors by pooch, checksums verified: addresses, licences, mirrors."""

import gzip
import shutil
import zlib
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from bilstm_attention.errors import FetchError, did_you_mean, join_lines

TIMEOUT = 30.0  # seconds that a server may stay silent
CHUNK = 1 << 16  # bytes
NOT_FOUND = (404, 410)  # HTTP status codes: the next place of a mirror is tried


@dataclass(frozen=True)
class File:
    """A file of an entry."""

    path: str  # under data/external/<entry>/ and in a mirror, which may also hold it gzipped under `path.gz`
    sha256: str | None  # of the unpacked content; None if unknown
    size: int = 0  # bytes of the unpacked content; 0 if unknown
    address: str | None = None  # None if only a mirror has the file


@dataclass(frozen=True)
class Entry:
    """A corpus or a set of word vectors."""

    name: str
    title: str
    licence: str
    source: str
    files: tuple[File, ...]
    alternates: tuple[File, ...] = ()  # of a mirror without `files`, as many of these as it holds
    folders: tuple[str, ...] = ()  # names that the entry's folder may have in a mirror, besides `name`
    note: str = ""  # the error message when no address is known


_SEMEVAL = (
    "https://raw.githubusercontent.com/SeoSangwoo/Attention-Based-BiLSTM-relation-extraction/"
    "02c0000c5aebd9e5de8cc360d2ef45bdb7c29030/SemEval2010_task8_all_data/SemEval2010_task8"
)
# Members of glove.6B.zip. Several projects publish the same checksums for 50, 100 and 300; none is known for 200.
_GLOVE = {
    50: "d8f717f8dd4b545cb7f418ef9f3d0c3e6e68a6f48b97d32f8b7aae40cb31f96f",
    100: "95dde4dfd627ab26608d33e76d1195ec059734bd29089ea52cadb08d07c64544",
    200: None,
    300: "91125602f730fea7ca768736c6f442e668b49db095682bf2aad375db061c21ed",
}
_ENTRIES = (
    Entry(
        name="semeval2010-task8",
        title="SemEval-2010 Task 8: relations between two marked nominals, 8,000 train and 2,717 test sentences",
        licence="CC BY 3.0",
        source="https://aclanthology.org/S10-1006/",
        files=(
            File(
                "TRAIN_FILE.TXT",
                "c22fee88957d245a4b1650c6743eb8c594dcdeffc6a2aa1fa6cced059eebf0e3",
                1_397_759,
                f"{_SEMEVAL}_training/TRAIN_FILE.TXT",
            ),
            File(
                "TEST_FILE_FULL.TXT",
                "9ec7a35d5582b4da0fb72aa55a6121bc414ade573459e1dcf68bf189f8c18ae8",
                473_888,
                f"{_SEMEVAL}_testing_keys/TEST_FILE_FULL.TXT",
            ),
        ),
    ),
    Entry(
        name="glove-6b",
        title="GloVe 6B: vectors of 400,000 uncased words in 50, 100, 200 and 300 dimensions",
        licence="PDDL 1.0",
        source="https://nlp.stanford.edu/projects/glove/",
        files=(
            File(
                "glove.6B.zip",
                "617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
                862_182_613,
                "https://nlp.stanford.edu/data/glove.6B.zip",
            ),
        ),
        alternates=tuple(File(f"glove.6B.{size}d.txt", sha256) for size, sha256 in _GLOVE.items()),
        folders=("glove",),
    ),
    Entry(
        name="mr",
        title="Movie-review sentence polarity (Pang and Lee 2005): 5,331 positive and 5,331 negative sentences",
        licence="CC BY 4.0",
        source="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        files=(
            File("rt-polarity.pos", "c2dc6b2f55bcf725725372916287cc3f8f9b19402edaa9167de5287cb3ade421", 626_334),
            File("rt-polarity.neg", "614274f81185a850e5a88d533d4679f916d6f62e9af6f0b4ec71fb94bf466ea5", 612_441),
        ),
        note="no public address has files with these checksums (of a copy in UTF-8 with Unix line ends; the published "
        "one is in Latin-1); pass --mirror DIR_OR_URL that holds rt-polarity.pos and rt-polarity.neg",
    ),
)
CATALOG = {entry.name: entry for entry in _ENTRIES}


def describe() -> list[dict[str, str]]:
    """The catalogue as rows of a table: `name`, `what`, `size`, `licence`, `source`."""
    return [
        {
            "name": entry.name,
            "what": entry.title,
            "size": decimal(sum(file.size for file in entry.files)),
            "licence": entry.licence,
            "source": entry.source,
        }
        for entry in CATALOG.values()
    ]


def fetch(name: str, folder: Path, mirror: str | None = None, progress: bool = True) -> list[Path]:
    """Puts the files of the catalogue's entry `name` into `folder/name`; see `fetch_entry`."""
    if name not in CATALOG:
        raise FetchError(
            f"{name!r} is not in the catalogue, which holds {', '.join(CATALOG)}{did_you_mean(name, CATALOG)}"
        )
    return fetch_entry(CATALOG[name], folder, mirror, progress)


def fetch_entry(entry: Entry, folder: Path, mirror: str | None = None, progress: bool = True) -> list[Path]:
    """Puts the files of `entry` into `folder/<entry.name>`, each verified before it gets its name.

    A correct file that exists is not fetched again; one with the wrong checksum is left as it is. Of a gzipped file the
    unpacked content is stored and verified, because gzip's own bytes differ between packings.

    Args:
        mirror: a folder or an http(s) URL to look in instead of the published addresses: under the entry's name, then
            under its other folder names, then at the top.
        progress: show a progress bar of each download on stderr.

    Raises:
        FetchError: a file is not found, arrives incomplete or wrong, or cannot be stored; then it is not stored.
    """
    import pooch  # with requests; needed here alone

    pooch.get_logger().setLevel("WARNING")
    base: Path | str | None = None if mirror is None else mirror.rstrip("/")
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        base = Path(mirror).expanduser()
        if not base.is_dir():
            raise FetchError(f"--mirror {mirror}: no such folder; use a folder or an http or https URL.")
    files = (*entry.files, *(entry.alternates if base is not None else ()))
    store = pooch.create(
        path=folder / entry.name, base_url="", registry={file.path: file.sha256 for file in files}, allow_updates=False
    )
    if base is None and not all(file.address or (store.abspath / file.path).exists() for file in entry.files):
        raise FetchError(f"{entry.name}: {entry.note}.")
    downloader = pooch.HTTPDownloader(progressbar=progress, chunk_size=CHUNK, timeout=TIMEOUT)
    stored, missing = list[Path](), list[str]()
    for file in files:
        if file in entry.alternates and not missing:
            break
        places = _places(entry, file, base)
        if path := _fetch_file(store, file, places, downloader):
            stored.append(path)
        else:
            missing += map(str, places)
    if missing and not (stored and entry.alternates):
        lines = join_lines(missing, len(missing))
        raise FetchError(f"{entry.name}: not found; pass --mirror DIR_OR_URL that holds it. Looked for:\n{lines}")
    return stored


def _places(entry: Entry, file: File, base: Path | str | None) -> list[Path | str]:
    """Where to look for `file`, in order: paths or URLs."""
    if base is None:
        return [file.address] if file.address else []
    folders = [f"{folder}/" for folder in (entry.name, *entry.folders)]
    names = [f"{folder}{file.path}{end}" for end in ("", ".gz") for folder in (*folders, "")]
    return [base / name if isinstance(base, Path) else f"{base}/{name}" for name in names]


def _fetch_file(store: Any, file: File, places: list[Path | str], downloader: Callable[..., None]) -> Path | None:
    """Path of `file` once it is stored and verified; None if none of its places has it."""
    import pooch

    target: Path = store.abspath / file.path
    place: Path | str = target
    existed = target.exists()

    def download(_url: str, output: str, _store: object) -> None:
        nonlocal place
        for place in places:
            if _copy(place, Path(output), downloader, resume=file.sha256 is not None):
                return
        raise LookupError

    try:
        store.fetch(file.path, downloader=download)
    except LookupError:
        return None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FetchError(f"{place}: not a complete gzip file ({error}); nothing was stored; try again.") from error
    except ValueError as error:  # from pooch: the checksum differs
        if existed:
            message = f"exists, but its sha256 is {pooch.file_hash(target)}, not {file.sha256}"
            raise FetchError(f"{target}: {message}; move it away or delete it, then fetch again.") from error
        raise FetchError(f"{place}: {error} Nothing was stored; try again, or use another --mirror.") from error
    except OSError as error:
        cause: BaseException = error
        while cause.__context__:  # requests wraps a broken connection three times; the innermost error says what broke
            cause = cause.__context__
        remote = hasattr(error, "response")  # as every error of requests has, and no error of a disk
        again = "try again, which goes on where it was cut off, or use another --mirror"
        advice = again if remote else "check free space and the folder's permissions"
        raise FetchError(f"{target}: not fetched from {place}: {cause}; {advice}.") from error
    check = "sha256 verified" if file.sha256 else "NOT VERIFIED, no checksum is known; sha256 "
    check += "" if file.sha256 else pooch.file_hash(target)
    print(f"{target}: {'exists' if existed else f'fetched from {place}'}, {check}")
    if not existed:
        target.chmod(0o644)  # pooch's temporary file is private
    return target


def _resume(url: str, output: Path, downloader: Any) -> None:
    """Downloads `url`, after the bytes that a download which was cut off left in a file beside `output`."""
    part = output.with_name(f"{Path(url).name}.part")
    with part.open("ab") as file:

        def restart(response: Any, **_: object) -> None:
            # 200: the server sends all of it again; 416: it has no such bytes
            if response.status_code in (200, 416):
                file.truncate(0)

        headers = {"Range": f"bytes={file.tell()}-", "Accept-Encoding": "identity"} if file.tell() else {}
        resumed = copy(downloader)
        resumed.kwargs = {**downloader.kwargs, "headers": headers, "hooks": {"response": restart}}
        try:
            resumed(url, file, None)
        finally:
            if not part.stat().st_size:
                part.unlink()
    if part.exists():
        part.replace(output)


def _copy(place: Path | str, output: Path, downloader: Callable[..., None], resume: bool) -> bool:
    """Copies or downloads `place` to `output`, unpacked; False if nothing is there."""
    packed = str(place).endswith(".gz")
    arrival = output.with_name(f"{output.name}.gz") if packed else output
    try:
        if isinstance(place, Path):
            shutil.copyfile(place, arrival)
        elif resume and not packed:
            _resume(place, output, downloader)
        else:
            downloader(place, str(arrival), None)
        if packed:
            with gzip.open(arrival) as source, output.open("wb") as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, FileNotFoundError) or status in NOT_FOUND:
            return False
        raise
    finally:
        if packed:
            arrival.unlink(missing_ok=True)
    return True
