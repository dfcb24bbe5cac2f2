"""Reading vector files of every format, whole and faulty, and training vectors on a text."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from gensim.models import FastText, KeyedVectors
from gensim.models.fasttext import save_facebook_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small import write

from bilstm_attention.data.vectors import list_faults, read_vectors, train_vectors
from bilstm_attention.errors import DataError

ROWS = {"the": [1, 2, 3], "of": [4, 5, 6], "state": [7, 8, 9]}
TEXT = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in ROWS.items())

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(lambda w: w.split() == [w])
float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
tables = st.integers(2, 4).flatmap(
    lambda dimension: st.dictionaries(words, st.lists(float32, min_size=dimension, max_size=dimension), min_size=1)
)


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """Writes an archive whose kind the name of the file tells."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix in PACK else "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def vectors_file(path: Path, table: dict[str, list[float]], header: bool = False) -> Path:
    """Writes vectors in the format that the name of the file tells."""
    dimension = len(next(iter(table.values())))
    top = f"{len(table)} {dimension}\n".encode() if header else b""
    if ".bin" in path.name:
        body = b"".join(word.encode() + b" " + np.array(row, "<f4").tobytes() + b"\n" for word, row in table.items())
    else:
        body = "".join(f"{word} {' '.join(map(repr, row))}\n" for word, row in table.items()).encode()
    if path.suffix == ".zip" or ".tar" in path.name:
        return pack(path, {"vectors.txt": top + body})
    return write(path, PACK.get(path.suffix, bytes)(top + body))


ENDS = (".txt", ".txt.gz", ".txt.bz2", ".txt.xz", ".tar", ".tar.bz2", ".zip")
WITH_HEADER = (".tar.gz", ".vec", ".vec.gz", ".zip", ".bin", ".bin.gz", ".bin.xz")


@pytest.mark.parametrize(
    ("name", "header"), [*((f"v{end}", False) for end in ENDS), *((f"v{end}", True) for end in WITH_HEADER)]
)
@settings(max_examples=30)
@given(table=tables)
def test_every_format_is_read_back(tmp_path_factory, name, header, table):
    path = vectors_file(tmp_path_factory.mktemp("vectors") / name, table, header)
    dimension = len(next(iter(table.values())))
    for listed, first in [(table, 0), ((), len(table))]:
        vectors = read_vectors(path, dimension, listed, first)
        assert list(vectors.rows) == list(table)
        np.testing.assert_array_equal(vectors.matrix, np.array(list(table.values()), np.float32))
        assert vectors.matrix.dtype == np.float32
        assert vectors.read == len(table)
        assert vectors.faults == {}


@pytest.mark.parametrize("name", ["v.txt", "v.bin", "v.bin.gz"])
def test_files_of_gensim_are_read(tmp_path, name):
    written = KeyedVectors(7)
    written.add_vectors([f"w{i}" for i in range(500)], np.random.default_rng(0).normal(size=(500, 7)))
    written.save_word2vec_format(str(tmp_path / name), binary=".bin" in name)
    vectors = read_vectors(tmp_path / name, 7, written.key_to_index)
    assert vectors.rows == written.key_to_index
    np.testing.assert_array_equal(vectors.matrix, written.vectors)


def test_listed_and_first_words_are_read_in_file_order(tmp_path):
    path = write(tmp_path / "v.txt", "a 1 1\nb 2 2\nc 3 3\nd 4 4\ne 5 5\n")
    vectors = read_vectors(path, 2, words={"e", "b", "zebra"}, first=3)
    assert list(vectors.rows) == ["a", "b", "c", "e"]
    np.testing.assert_array_equal(vectors.matrix[:, 0], [1, 2, 3, 5])
    assert vectors.read == 5


@pytest.mark.parametrize(
    ("name", "text", "rows", "faults"),
    [
        ("v.txt", "a\t1\t2\r\nb  3  4\nc 5 6 \n", [[1, 2], [3, 4], [5, 6]], {}),
        # a blank last line is no row of the header
        ("v.vec", "2 2\na 1 2\nb 3 4\n\n", [[1, 2], [3, 4]], {"empty line": [4]}),
        # a faulty vector does not hide a later one
        ("v.txt", "b 0 0\na nan 1\na 1 2\n", [[0, 0], [1, 2]], {"not a finite number": [2]}),
        # the dimension is that of most lines, among as many the one that is asked for
        ("v.txt", "1 0.5 0.5\n0 1 2\n", [[0.5, 0.5], [1, 2]], {}),
        ("v.txt", "x\n1 0.5 0.5\n0 1 2\n", [[0.5, 0.5], [1, 2]], {"not the right count of numbers": [1]}),
        ("v.txt", "a 1 2 3\nb 1 2\n", [[1, 2]], {"not the right count of numbers": [1]}),
    ],
)
def test_lines_as_people_write_them(tmp_path, name, text, rows, faults):
    vectors = read_vectors(write(tmp_path / name, text), 2, "abc01")
    np.testing.assert_array_equal(vectors.matrix, rows)
    assert vectors.faults == faults


def test_faults_are_counted_by_kind_and_line(tmp_path):
    text = b"""a 1 2

short 1
long 1 2 3
. . . 1 2
nan nan 2
inf 1 1e39
text 1 x
\xff\xfe 1 2
a 9 9
\x20
no\xc2\xa0break 1 2
z 3 4
gap  5
"""
    vectors = read_vectors(write(tmp_path / "v.txt", text), 2, (), first=99)
    assert vectors.faults == {
        "empty line": [2, 11],
        "not the right count of numbers": [3, 4, 14],
        "word with a blank": [5, 12],
        "not a finite number": [6, 7],
        "not a number": [8],
        "word not UTF-8": [9],
        "repeated word; its first vector is used": [10],
    }
    assert list_faults({"empty line": [2, 11], "not a number": [8]}) == (
        "2 x empty line (from line 2), 1 x not a number (from line 8)"
    )
    assert list(vectors.rows) == ["a", "z"]
    np.testing.assert_array_equal(vectors.matrix, [[1, 2], [3, 4]])


@pytest.mark.parametrize("header", ["", "3 3\n"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_byte_order_mark_is_no_part_of_the_first_line(tmp_path, header, suffix):
    text = f"\ufeff{header}{TEXT}".encode()
    vectors = read_vectors(write(tmp_path / f"v.txt{suffix}", PACK.get(suffix, bytes)(text)), 3, ROWS)
    assert list(vectors.rows) == list(ROWS)
    assert (vectors.read, vectors.faults) == (3, {})


@pytest.mark.parametrize(
    ("name", "header", "faults"),
    [
        ("v.vec", "3 3", {}),
        ("v.vec", "3\t3", {}),
        ("v.vec", "2 3", {"header with too few words": [1]}),
        ("v.vec", "3 300", {"header with another dimension": [1]}),
        ("v.bin", "2 3", {"header with too few words; the vectors beyond are not read": [1]}),
    ],
)
def test_header_that_rows_contradict_is_counted(tmp_path, name, header, faults):
    path = vectors_file(tmp_path / name, ROWS, header=True)
    path.write_bytes(path.read_bytes().replace(b"3 3", header.encode(), 1))
    vectors = read_vectors(path, 3, ROWS)
    assert vectors.faults == faults
    assert list(vectors.rows) == list(ROWS)[: 2 if name == "v.bin" else 3]


@pytest.mark.parametrize(
    ("name", "content", "dimension", "message"),
    [
        ("v.txt", TEXT, 50, r"v\.txt: vectors of 3 numbers, but their `dimension` in embeddings is 50"),
        ("v.vec", f"3 3\n{TEXT}", 50, r"v\.vec: vectors of 3 numbers, but their `dimension` in embeddings is 50"),
        ("v.txt", "", 3, "not word vectors"),
        ("v.txt", "\n\n", 3, "not word vectors"),
        ("v.txt", "Call me Ishmael.\nSome years ago\n", 3, "not word vectors"),
        ("v.vec", "2 3\na 1 2\nb 1 2\n", 3, "vectors of 2 numbers, but"),
        ("v.vec", "2 3\n", 3, "not word vectors"),
        ("v.txt", b"\xff 1 2 3\n\xfe 1 2 3\n", 3, "no line is a word and 3 numbers; faults: 2 x word not UTF-8"),
        ("v.vec", f"5 3\n{TEXT}\n\n", 3, "ends after 3 of the 5 vectors that line 1 promises"),
        ("wiki.bin", bytes(range(256)) * 9, 3, r"take the \.vec file"),
        ("none.txt", None, 3, r"none\.txt: no such file.*bilstm-attention fetch glove-6b"),
    ],
)
def test_unusable_file_is_refused(tmp_path, name, content, dimension, message):
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        read_vectors(tmp_path / name, dimension, ROWS)


TABLE = {f"w{i}": np.random.default_rng(i).normal(size=3).tolist() for i in range(300)}
PACKED = [f".txt{suffix}" for suffix in PACK]
CUT = [(end, None) for end in (*PACKED, ".tar.gz", ".tar", ".bin.gz", ".bin", ".zip")]


# among the first packed bytes, and in the checksum or the footer
@pytest.mark.parametrize(("end", "at"), [*CUT, *product(PACKED, (30, -6))])
def test_damaged_file_is_refused(tmp_path, end, at):
    path = vectors_file(tmp_path / f"v{end}", TABLE, header=".bin" in end)
    data = bytearray(path.read_bytes())
    if at:
        data[at] ^= 0xFF
    else:
        del data[len(data) // 2 :]
    with pytest.raises(DataError, match=rf"v{end}: (damaged or truncated|ends after \d+ of its 300 vectors)"):
        read_vectors(write(path, bytes(data)), 3, TABLE)


def test_folder_gives_the_file_named_for_the_dimension_else_its_zip(tmp_path):
    write(tmp_path / "glove.3d.txt", TEXT)
    vectors_file(tmp_path / "glove.3d.txt.gz", {"packed": [1, 2, 3]})
    vectors_file(tmp_path / "other.zip", {"zipped": [1, 2]})
    assert list(read_vectors(tmp_path, 3, (), first=1).rows) == ["the"]
    assert list(read_vectors(tmp_path, 2, (), first=1).rows) == ["zipped"]
    (tmp_path / "other.zip").unlink()
    with pytest.raises(DataError, match=r"neither one file named for 2d .* it holds glove\.3d\.txt, "):
        read_vectors(tmp_path, 2, ())


MEMBERS = {"glove.3d.txt": TEXT.encode(), "glove.13d.txt": b"the " + b"1 " * 13, "readme.txt": b"read me"}


def test_zip_member_is_chosen_by_dimension(tmp_path):
    archive = pack(tmp_path / "glove.zip", MEMBERS)
    assert read_vectors(archive, 3, ROWS).rows == {word: row for row, word in enumerate(ROWS)}
    assert read_vectors(archive, 13, ROWS).matrix.shape == (1, 13)
    for dimension, member, message in ((5, None, "0 of 3 members"), (3, "x.txt", "no member 'x.txt'")):
        with pytest.raises(DataError, match=rf"(?s){message}.*glove\.3d\.txt.*glove\.13d\.txt.*readme\.txt"):
            read_vectors(archive, dimension, ROWS, member=member)


@pytest.mark.parametrize("suffix", ["zip", "tar.xz"])
def test_only_member_beside_files_of_macos_is_chosen(tmp_path, suffix):
    members = {"v/vectors.txt": TEXT.encode(), "__MACOSX/v/._vectors.txt": b"\0\5", "v/.DS_Store": b"\0"}
    assert list(read_vectors(pack(tmp_path / f"v.{suffix}", members), 3, ROWS).rows) == list(ROWS)


def test_member_of_a_plain_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"embeddings\.member is 'a\.txt', but this is no archive"):
        read_vectors(write(tmp_path / "v.txt", TEXT), 3, ROWS, member="a.txt")


@pytest.fixture(scope="module")
def fasttext(tmp_path_factory):
    """A model of subwords of 3 to 4 characters, and its file in fastText's own format."""
    texts = [["playing", "player", "plays", "a", "game"], ["gamer", "played", "a", "play"]] * 20
    model = FastText(texts, vector_size=6, min_count=1, min_n=3, max_n=4, bucket=200, epochs=2, seed=1, workers=1)
    path = tmp_path_factory.mktemp("fasttext") / "model.bin"
    save_facebook_model(model, str(path))
    return path, model


def test_fasttext_builds_unknown_words_from_subwords(fasttext):
    path, model = fasttext
    vectors = read_vectors(path, 6, {"game", "gameplay", "replay", "Z", "XY"}, first=2)
    assert list(vectors.rows) == [*model.wv.index_to_key[:2], "game"]
    # <Z> and <XY> are subwords of 3 and 4 characters
    assert list(vectors.subwords) == ["XY", "Z", "gameplay", "replay"]
    assert vectors.read == len(model.wv)
    for word, row in {**vectors.rows, **vectors.subwords}.items():
        np.testing.assert_allclose(vectors.matrix[row], model.wv[word], atol=1e-6)
    assert vectors.matrix.dtype == np.float32


@pytest.mark.parametrize(
    ("lengths", "rows", "subwords"),
    # of subwords, which <xy> is shorter than; 0: a model without them
    [((5, 6), ["play"], ["xyz"]), ((3, 0), ["play"], [])],
)
def test_fasttext_has_no_vector_without_a_subword(tmp_path, lengths, rows, subwords):
    least, most = lengths
    model = FastText([["play", "game"]] * 9, vector_size=2, min_count=1, min_n=least, max_n=most, bucket=9, epochs=1)
    save_facebook_model(model, str(tmp_path / "v.bin"))
    vectors = read_vectors(tmp_path / "v.bin", 2, {"play", "xy", "xyz"})
    assert (list(vectors.rows), list(vectors.subwords)) == (rows, subwords)


@pytest.mark.parametrize(
    ("change", "dimension", "message"),
    [
        (lambda data: data, 5, "vectors of 6 numbers, but their `dimension` in embeddings is 5"),
        (lambda data: data[:90], 6, "shorter than its header says; legal is a whole fastText model"),
        (lambda data: data[:4000], 6, "shorter than its header says"),
        (lambda data: data[:72] + struct.pack("<i", 2) + data[76:], 6, "Supervised fastText models are not supported"),
        (lambda data: gzip.compress(data), 6, "unpack it and name that file"),
    ],
)
def test_unusable_fasttext_is_refused(tmp_path, fasttext, change, dimension, message):
    path = write(tmp_path / "v.bin", change(fasttext[0].read_bytes()))
    with pytest.raises(DataError, match=rf"v\.bin: .*{message}"):
        read_vectors(path, dimension, {"game"})


def test_trained_vectors_leave_out_rare_words_and_markers():
    texts = [["<e1>", "a", "</e1>", "b", "c"], ["a", "<e1>", "b", "</e1>"], ["a", "."]]
    vectors = [train_vectors(texts, dimension=4, min_count=2, window=2, epochs=1, seed=seed) for seed in (0, 1)]
    assert list(vectors[0].rows) == ["a", "b"]
    assert vectors[0].matrix.shape == (2, 4)
    assert vectors[0].read == 2
    assert not np.array_equal(vectors[0].matrix, vectors[1].matrix)


def test_trained_vectors_are_equal_each_time():
    """Of a text that is long enough to be shared out among threads."""
    texts = [["of", f"w{i % 5}", f"v{i % 97}", "."] for i in range(9000)]
    first, again = (train_vectors(texts, dimension=8, min_count=1, window=3, epochs=3, seed=4) for _ in range(2))
    assert list(first.rows) == list(again.rows)
    np.testing.assert_array_equal(first.matrix, again.matrix)


def test_min_count_above_all_counts_is_refused():
    with pytest.raises(DataError, match=r"embeddings\.min_count = 3"):
        train_vectors([["a", "b", "a"]], dimension=4, min_count=3, window=2, epochs=1, seed=0)
