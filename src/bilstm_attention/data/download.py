"""Known corpora and vectors: address, checksum, licence; fetching and verifying."""

import gzip
import hashlib
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rich.filesize import decimal

from bilstm_attention.errors import FetchError, did_you_mean, join_lines

TIMEOUT = 30.0  # seconds a server may stay silent
CHUNK = 1 << 16  # bytes
MISSING = (404, 410)  # HTTP: there is no such file, so the next place of a mirror is tried


@dataclass(frozen=True)
class File:
    """One file; checksum and size are of its content, a `.gz` unpacked, as gzip's own bytes differ between packings."""

    path: str  # under data/external/<entry>/, and in a mirror
    sha256: str | None  # None: not known
    size: int | None = None  # bytes
    address: str | None = None  # None: only a mirror can hold it


@dataclass(frozen=True)
class Entry:
    """A corpus or a set of vectors: all of `files`, or what a mirror holds of `alternates`."""

    name: str
    title: str
    licence: str
    source: str
    files: tuple[File, ...]
    alternates: tuple[File, ...] = ()  # a .gz stands before the plain file of the same name, and instead of it
    folders: tuple[str, ...] = ()  # names its folder may have in a mirror, besides `name`
    note: str = ""  # said when no address is known


_SEMEVAL = (
    "https://raw.githubusercontent.com/SeoSangwoo/Attention-Based-BiLSTM-relation-extraction/"
    "02c0000c5aebd9e5de8cc360d2ef45bdb7c29030/SemEval2010_task8_all_data/SemEval2010_task8"
)
# Members of glove.6B.zip, unpacked. Several projects publish the same sums for 50, 100 and 300; none is known for 200.
_GLOVE: dict[int, tuple[str | None, int | None]] = {
    50: ("d8f717f8dd4b545cb7f418ef9f3d0c3e6e68a6f48b97d32f8b7aae40cb31f96f", 171_350_079),
    100: ("95dde4dfd627ab26608d33e76d1195ec059734bd29089ea52cadb08d07c64544", 347_116_733),
    200: (None, None),
    300: ("91125602f730fea7ca768736c6f442e668b49db095682bf2aad375db061c21ed", 1_037_962_819),
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
        alternates=tuple(File(f"glove.6B.{d}d.txt{gz}", *known) for d, known in _GLOVE.items() for gz in (".gz", "")),
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
        note="no public address with these checksums is known (they are of a copy in UTF-8 with Unix line ends, "
        "the published one is in Latin-1); give --mirror DIR_OR_URL that holds rt-polarity.pos and rt-polarity.neg",
    ),
)
CATALOG = {entry.name: entry for entry in _ENTRIES}


def describe() -> list[dict[str, str]]:
    """The catalogue as rows of a table: `name`, `what`, `size`, `licence`, `source`."""
    return [
        {
            "name": entry.name,
            "what": entry.title,
            "size": decimal(sum(file.size or 0 for file in entry.files)),
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

    A file that is there already and right is not fetched again; one that is there and wrong is left as it is.

    Args:
        folder: where fetched things live, `paths.EXTERNAL`.
        mirror: a folder, or an http, https or file URL, to look in instead of the published addresses: under the
            entry's name, then under its other folder names, then bare.
        progress: show a progress bar of each download on stderr.

    Returns:
        Paths of the files, those that were there already among them.

    Raises:
        FetchError: a file is nowhere, did not arrive whole and right, or cannot be stored; nothing of it is kept.
    """
    base = None if mirror is None else _mirror(mirror)
    stored = {file.path: _obtain(entry, file, folder, base, progress) for file in entry.files}
    if base is not None and not all(stored.values()):
        for file in entry.alternates:
            if not stored.get(f"{file.path}.gz"):
                stored[file.path] = _obtain(entry, file, folder, base, progress)
    found = [path for path in stored.values() if path]
    if len(found) == len(stored) or (found and entry.alternates):
        return found
    missing = [file for file in (*entry.files, *entry.alternates) if not stored.get(file.path)]
    sought = [str(place) for file in missing for place in _places(entry, file, base)]
    if not sought:
        raise FetchError(f"{entry.name}: {entry.note}.")
    lines = join_lines(sought, len(sought))
    raise FetchError(f"{entry.name}: not found; give --mirror DIR_OR_URL that holds it. Looked for:\n{lines}")


def _mirror(mirror: str) -> Path | str:
    """A folder as a path, an http or https URL as it is."""
    scheme = urlsplit(mirror).scheme.lower() if "://" in mirror else ""
    if scheme in ("http", "https"):
        return mirror
    if scheme not in ("", "file"):
        raise FetchError(f"--mirror {mirror}: {scheme} is not known here; give a folder or an http, https or file URL.")
    folder = Path(url2pathname(urlsplit(mirror).path)) if scheme else Path(mirror).expanduser()
    if not folder.is_dir():
        raise FetchError(f"--mirror {mirror}: there is no such folder; give one, or an http, https or file URL.")
    return folder


def _places(entry: Entry, file: File, base: Path | str | None) -> list[Path | str]:
    """Where to look for `file`, in order: paths or URLs."""
    if base is None:
        return [file.address] if file.address else []
    within = [*(f"{folder}/{file.path}" for folder in (entry.name, *entry.folders)), file.path]
    return [base / path if isinstance(base, Path) else f"{base.rstrip('/')}/{path}" for path in within]


def _obtain(entry: Entry, file: File, folder: Path, base: Path | str | None, progress: bool) -> Path | None:
    """Path of `file` once it is stored and verified; None when it is at none of its places."""
    target = folder / entry.name / file.path
    place: Path | str = target
    try:
        if target.exists():
            right, finding = _judge(file, target)
            if not right:
                raise FetchError(f"{target}: is there already, but {finding}; move it away or delete it, then fetch.")
            print(f"{target}: already there, {finding}")
            return target
        for place in _places(entry, file, base):
            target.parent.mkdir(parents=True, exist_ok=True)
            # On the same disk, so that storing is a rename; goes with all it holds, after Ctrl-C too.
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as temporary:
                part = Path(temporary) / target.name
                if not _bring(place, part, file, progress):
                    continue
                right, finding = _judge(file, part)
                if not right:
                    raise FetchError(f"{place}: {finding}; nothing was stored; try again, or give another --mirror.")
                part.replace(target)
            print(f"{target}: fetched from {place}, {finding}")
            return target
    except OSError as error:
        cause: BaseException = error
        while cause.__context__:  # a broken connection comes wrapped three times; its bottom is what happened
            cause = cause.__context__
        remote = hasattr(error, "response")  # as every error of requests has, and no error of a disk
        advice = "try again, or give another --mirror" if remote else "make room, or mend the folder's permissions"
        raise FetchError(f"{target}: not fetched from {place}: {cause}; nothing was stored; {advice}.") from error
    return None


def _bring(place: Path | str, part: Path, file: File, progress: bool) -> bool:
    """Copies or downloads `place` to `part`; False when nothing is there."""
    free = shutil.disk_usage(part.parent).free
    if isinstance(place, Path):
        if not place.is_file():
            return False
        if (need := place.stat().st_size) > free:
            raise _no_room(place, need, free)
        shutil.copyfile(place, part)
        return True
    import pooch  # with requests; needed for a download alone

    download = pooch.HTTPDownloader(progressbar=progress, chunk_size=CHUNK, timeout=TIMEOUT)
    need = 0 if part.suffix == ".gz" else file.size or 0  # how large a .gz is, is not known
    try:
        if need > free and download(place, None, None, check_only=True):
            raise _no_room(place, need, free)
        download(place, str(part), None)
    except OSError as error:
        if getattr(getattr(error, "response", None), "status_code", None) in MISSING:
            return False
        raise
    return True


def _no_room(place: Path | str, need: int, free: int) -> FetchError:
    return FetchError(f"{place}: needs {decimal(need)} on disk, {decimal(free)} are free; make room, then fetch.")


def _judge(file: File, path: Path) -> tuple[bool, str]:
    """Whether the file at `path` holds what the catalogue says, and the finding in words."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
            size = content.tell()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return False, f"it is not a whole gzip file ({error})"
    if file.sha256 is None:
        return size > 0, f"NOT VERIFIED: no checksum of it is known; its content has {size} bytes and sha256 {found}"
    if found != file.sha256:
        return False, f"expected sha256 {file.sha256} ({file.size} bytes), found {found} ({size} bytes)"
    return True, "sha256 as expected"
