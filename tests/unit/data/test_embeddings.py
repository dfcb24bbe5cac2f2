"""The vocabulary, the matrix and the coverage, on vectors small enough to check by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gensim.models import FastText
from gensim.models.fasttext import save_facebook_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small import measure_process

from bilstm_attention.config import Embeddings, Tokens
from bilstm_attention.data.embeddings import build_embedding, coverage, coverage_report, read_origins
from bilstm_attention.data.tokens import SPECIALS, count_words, tokenize, write_words
from bilstm_attention.errors import DataError

FILE = "the 1 2\nof 3 4\nIBM 5 6\nibm 7 8\nwell 10 20\nknown 30 40\n, 9 9\n"


def table(**counts: int) -> pd.DataFrame:
    return pd.DataFrame({"word": list(counts), "count": list(counts.values())})


def build(folder: Path, counts: pd.DataFrame, text: str = FILE, **params):
    (folder / "v.txt").write_text(text)
    return build_embedding(counts, Embeddings(source="file", path=str(folder / "v.txt"), dimension=2, **params), folder)


def words_of(embedding) -> list[str]:
    return embedding.vocabulary.words[len(SPECIALS) :]


def test_specials_come_first_and_random_rows_depend_on_the_seed(tmp_path):
    embedding = build(tmp_path, table(the=3))
    assert embedding.vocabulary.words == ["<pad>", "<unk>", "<e1>", "</e1>", "<e2>", "</e2>", "the"]
    assert embedding.matrix.dtype == np.float32
    assert embedding.matrix.shape == (7, 2)
    assert not embedding.matrix[0].any()
    assert embedding.matrix[1:].any(axis=1).all()
    np.testing.assert_array_equal(embedding.matrix[6], [1, 2])
    again, other = (build(tmp_path, table(the=3), seed=seed).matrix for seed in (0, 6))
    np.testing.assert_array_equal(embedding.matrix, again)
    assert not np.array_equal(embedding.matrix[1], other[1])


def test_words_are_ordered_by_count_without_rare_ones_and_markers(tmp_path):
    counts = pd.DataFrame({"word": ["<e1>", "b", "c", "a", "rare", "<pad>"], "count": [9, 2, 5, 2, 1, 9]})
    assert words_of(build(tmp_path, counts, min_count=2)) == ["c", "a", "b"]


def test_extra_words_are_the_first_of_the_file_unseen_in_training(tmp_path):
    embedding = build(tmp_path, table(zebra=3, of=1), extra_words=3)
    assert words_of(embedding) == ["zebra", "of", "the", "IBM"]
    assert embedding.origins == {"zebra": "missing", "of": "exact", "the": "exact", "IBM": "exact"}
    np.testing.assert_array_equal(embedding.matrix[-3:], [[3, 4], [1, 2], [5, 6]])


def test_max_words_prefers_training_words(tmp_path):
    counts = table(zebra=3, of=1, the=1)
    assert words_of(build(tmp_path, counts, extra_words=3, max_words=2)) == ["zebra", "of"]
    assert words_of(build(tmp_path, counts, extra_words=9, max_words=4)) == ["zebra", "of", "the", "IBM"]


def test_words_are_looked_up_exactly_then_lower_then_by_parts(tmp_path):
    counts = pd.DataFrame({"word": ["IBM", "THE", "Well-known", "well-nigh", "x-y", "-"], "count": [6, 5, 4, 3, 2, 1]})
    embedding = build(tmp_path, counts)
    assert list(embedding.origins.values()) == ["exact", "lower", "hyphen", "hyphen", "missing", "missing"]
    np.testing.assert_array_equal(embedding.matrix[6:10], [[5, 6], [1, 2], [20, 30], [10, 20]])
    hyphens = build(tmp_path, counts[2:3], hyphens="unknown")
    assert hyphens.origins == {"Well-known": "missing"}


def test_random_rows_have_the_variance_of_the_vectors(tmp_path):
    generator = np.random.default_rng(0)
    text = "".join(f"w{i} {a} {b}\n" for i, (a, b) in enumerate(generator.normal(0, 3, (3000, 2))))
    counts = pd.DataFrame({"word": [f"new{i}" for i in range(3000)], "count": 1})
    drawn = build(tmp_path, counts, text=text, extra_words=3000).matrix[len(SPECIALS) : len(SPECIALS) + 3000]
    assert drawn.std() == pytest.approx(3, rel=0.05)
    assert drawn.mean() == pytest.approx(0, abs=0.2)


def test_random_source_makes_every_row(tmp_path):
    params = Embeddings(source="random", dimension=300)
    embedding = build_embedding(table(the=2, of=1), params, tmp_path)
    assert embedding.origins == {"the": "missing", "of": "missing"}
    assert 0.2 < np.abs(embedding.matrix[1:]).max() <= 0.25
    assert not embedding.matrix[0].any()


def test_corpus_source_gives_every_word_a_vector(tmp_path):
    pd.DataFrame({"tokens": [["<e1>", "a", "</e1>", "b"], ["a", "c"]]}).to_parquet(tmp_path / "train.parquet")
    params = Embeddings(source="corpus", path="train.parquet", dimension=4, epochs=1)
    embedding = build_embedding(table(a=2, b=1, c=1), params, tmp_path)
    assert words_of(embedding) == ["a", "b", "c"]
    assert set(embedding.origins.values()) == {"exact"}
    vectors = embedding.parts[0].vectors
    for word, row in vectors.rows.items():
        np.testing.assert_array_equal(embedding.matrix[embedding.vocabulary.words.index(word)], vectors.matrix[row])


def join(folder: Path, *sources: dict, **params) -> Embeddings:
    """Parameters of joined sources; their files lie in `folder`."""
    listed = [{**source, "path": str(folder / source["path"])} if "path" in source else source for source in sources]
    total = sum(source["dimension"] for source in sources)
    return Embeddings(**{"source": "joined", "path": str(folder), "sources": listed, "dimension": total, **params})


def test_joined_sources_stand_side_by_side_with_their_own_rules(tmp_path):
    (tmp_path / "a.txt").write_text(FILE)
    (tmp_path / "b.txt").write_text("the 1 2 3\nwell-known 4 5 6\nhouse 7 8 9\nIBM 1 1 1\n")
    pd.DataFrame({"tokens": [["the", "zebra"], ["the", "Well-known"]]}).to_parquet(tmp_path / "train.parquet")
    a = {"source": "file", "path": "a.txt", "dimension": 2}
    b = {"source": "file", "path": "b.txt", "dimension": 3}
    corpus = {"source": "corpus", "path": "train.parquet", "dimension": 4}
    counts = pd.DataFrame({"word": ["the", "Well-known", "zebra", "house"], "count": [4, 3, 2, 1]})
    embedding = build_embedding(counts, join(tmp_path, a, corpus, b, extra_words=3), tmp_path)
    assert embedding.matrix.shape == (len(SPECIALS) + 6, 9)
    # extra words are those of the first file, and have their vector in the others too
    assert words_of(embedding) == ["the", "Well-known", "zebra", "house", "of", "IBM"]
    np.testing.assert_array_equal(embedding.matrix[[6, 7, 10, 11], :2], [[1, 2], [20, 30], [3, 4], [5, 6]])
    np.testing.assert_array_equal(embedding.matrix[[6, 7, 9, 11], 6:], [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]])
    trained = embedding.parts[1].vectors
    np.testing.assert_array_equal(embedding.matrix[8, 2:6], trained.matrix[trained.rows["zebra"]])
    assert [part.origins["Well-known"] for part in embedding.parts] == ["hyphen", "exact", "lower"]
    assert list(embedding.origins.values()) == ["exact", "exact", "exact", "exact", "exact", "exact"]
    report = coverage_report(embedding, counts, counts)
    assert [source["train"]["tokens"]["percent"] for source in report["sources"]] == [70.0, 90.0, 80.0]
    assert [source["vectors_read"] for source in report["sources"]] == [7, 3, 4]
    assert [(source["path"], source["dimension"]) for source in report["sources"]][2] == (str(tmp_path / "b.txt"), 3)
    assert report["train"]["tokens"]["percent"] == 100.0
    assert read_origins(embedding.vocabulary, report) == embedding.origins


def test_unknown_words_differ_between_joined_sources(tmp_path):
    (tmp_path / "a.txt").write_text(FILE)
    a = {"source": "file", "path": "a.txt", "dimension": 2}
    embedding = build_embedding(table(zebra=1), join(tmp_path, a, a), tmp_path)
    assert embedding.matrix[1:].all()
    assert not np.isclose(embedding.matrix[1:, :2], embedding.matrix[1:, 2:]).any()
    assert not embedding.matrix[0].any()


def test_first_of_joined_sources_has_the_rows_it_has_alone(tmp_path):
    a = {"source": "file", "path": "v.txt", "dimension": 2}
    counts = table(zebra=3, the=1)
    alone = build(tmp_path, counts, extra_words=2, seed=3)
    params = join(tmp_path, a, {"source": "random", "dimension": 5}, extra_words=2, seed=3)
    joined = build_embedding(counts, params, tmp_path)
    np.testing.assert_array_equal(joined.matrix[:, :2], alone.matrix)


def test_words_unknown_to_fasttext_are_built_from_subwords(tmp_path):
    model = FastText([["playing", "player"]] * 9, vector_size=4, min_count=1, bucket=50, epochs=1, seed=1, workers=1)
    save_facebook_model(model, str(tmp_path / "v.bin"))
    params = Embeddings(source="file", path=str(tmp_path / "v.bin"), dimension=4)
    counts = pd.DataFrame({"word": ["player", "Playing", "re-play"], "count": [2, 2, 1]})
    embedding = build_embedding(counts, params, tmp_path)
    assert list(embedding.origins.values()) == ["lower", "exact", "subword"]
    np.testing.assert_allclose(embedding.matrix[-1], model.wv["re-play"], atol=1e-6)
    report = coverage_report(embedding, counts, counts)
    assert report["train"]["tokens"]["subword"] == 1
    assert report["train"]["tokens"]["percent"] == 100
    assert read_origins(embedding.vocabulary, report) == embedding.origins


@pytest.mark.parametrize(
    ("text", "words", "reason"),
    [
        ("The 1 2\nOF 3 4\n", "the of", "begins with The, OF; the most frequent of train are the, of. Their case"),
        ("и 1 2\nна 3 4\n", "the of", "Their scripts differ, CYRILLIC and LATIN"),
        ("xq 1 2\nzz 3 4\n", "the of", "the wrong file"),
        ("1 1 2\n", "! ?", "the wrong file"),
        ("the 1 2\n", "the and", None),
    ],
)
def test_vectors_that_cover_next_to_nothing_are_warned_of(tmp_path, text, words, reason):
    counts = pd.DataFrame({"word": ["<e1>", *words.split()], "count": [900, 50, 40]})
    report = coverage_report(build(tmp_path, counts, text), counts, counts)
    (warning,) = report.get("warnings", [""])
    expected = rf".*v\.txt: only 0\.0 % of the running words .*{reason}.*" if reason else ""
    assert re.fullmatch(expected, warning)


def test_rare_words_left_out_do_not_make_a_warning(tmp_path):
    counts = pd.DataFrame({"word": ["the", *map(str, range(99))], "count": [2, *[1] * 99]})
    report = coverage_report(build(tmp_path, counts, min_count=2), counts, counts)
    assert report["train"]["tokens"]["percent"] < 20
    assert "warnings" not in report
    random = build_embedding(counts, Embeddings(source="random", dimension=2), tmp_path)
    assert "warnings" not in coverage_report(random, counts, counts)


@pytest.mark.parametrize("content", [None, b"not parquet", pd.DataFrame({"text": ["a b"]}).to_parquet()])
def test_unreadable_training_table_names_its_stage(tmp_path, content):
    if content:
        (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.parquet: not the training table that `prepare` writes"):
        build_embedding(table(a=1), Embeddings(source="corpus", path="train.parquet"), tmp_path)


def test_min_count_above_all_counts_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"embeddings\.min_count = 4"):
        build(tmp_path, table(the=3), min_count=4)


@settings(max_examples=50)
@given(
    counts=st.dictionaries(st.text("aB-", min_size=1, max_size=4), st.integers(1, 5), min_size=1),
    held=st.sets(st.text("aB-", min_size=1, max_size=4), min_size=1),
    extra=st.integers(0, 5),
    cap=st.none() | st.integers(1, 8),
    hyphens=st.sampled_from(["average", "unknown"]),
)
def test_every_word_has_one_row_and_its_own_vector_if_known(tmp_path_factory, counts, held, extra, cap, hyphens):
    own = {word: (row, -row) for row, word in enumerate(sorted(held), start=1)}
    text = "".join(f"{word} {a} {b}\n" for word, (a, b) in own.items())
    frame = pd.DataFrame({"word": list(counts), "count": list(counts.values())})
    embedding = build(tmp_path_factory.mktemp("e"), frame, text, extra_words=extra, max_words=cap, hyphens=hyphens)
    assert len(set(embedding.vocabulary.words)) == len(embedding.vocabulary.words) == len(embedding.matrix)
    assert len(words_of(embedding)) <= (cap or len(counts) + extra)
    assert np.isfinite(embedding.matrix).all()
    for word, row in zip(words_of(embedding), embedding.matrix[len(SPECIALS) :], strict=True):
        assert (embedding.origins[word] == "exact") == (word in own)
        if word in own:
            np.testing.assert_array_equal(row, own[word])


def test_coverage_by_hand():
    origins = {"a": "exact", "B": "lower", "c-d": "hyphen", "e": "missing"}
    counts = pd.DataFrame({"word": ["a", "B", "c-d", "e", "f", "g", "<e1>"], "count": [10, 4, 2, 1, 3, 0, 99]})
    assert coverage(counts, origins) == {
        "types": {"total": 6, "exact": 1, "lower": 1, "hyphen": 1, "missing": 1, "unknown": 2, "percent": 50.0},
        "tokens": {"total": 20, "exact": 10, "lower": 4, "hyphen": 2, "missing": 1, "unknown": 3, "percent": 80.0},
        "misses": [["f", 3], ["e", 1], ["g", 0]],
    }
    assert coverage(counts[:0], origins)["tokens"]["percent"] == 0
    many = pd.DataFrame({"word": [f"w{i:02}" for i in range(60)], "count": range(60)})
    assert coverage(many, {})["misses"] == [[f"w{i:02}", i] for i in range(59, 9, -1)]


def test_origins_are_read_back_from_the_saved_report(tmp_path):
    counts = pd.DataFrame({"word": ["IBM", "THE", "well-known", "zebra"], "count": [4, 3, 2, 1]})
    embedding = build(tmp_path, counts, text=FILE + "broken 1\n", extra_words=1)
    saved = json.loads(json.dumps(coverage_report(embedding, counts, table(of=1, the=2))))
    assert read_origins(embedding.vocabulary, saved) == embedding.origins
    assert saved["rows"] == {"lower": ["THE"], "hyphen": ["well-known"], "missing": ["zebra"]}
    assert saved["train"]["tokens"]["percent"] == 90.0
    assert saved["dev"]["misses"] == [["of", 1]]
    assert saved["vocabulary"] == len(SPECIALS) + 5
    assert saved["vectors_read"] == 7
    assert saved["faults"] == {"not the right count of numbers": {"count": 1, "lines": [8]}}
    assert saved["warnings"] == [f"{tmp_path}/v.txt: 1 x not the right count of numbers (from line 8)."]


COST = """
from bilstm_attention.data.embeddings import build_embedding, coverage
from bilstm_attention.data.tokens import read_words
from bilstm_attention.config import Embeddings
counts = read_words(Path(sys.argv[1]))
params = Embeddings(source="file", path=sys.argv[2], dimension=50, extra_words=400_000)
embedding = build_embedding(counts, params, Path("."))
print(peak(), len(embedding.vocabulary), coverage(counts, embedding.origins)["tokens"]["percent"])
"""


def test_vocabulary_with_all_of_glove_takes_little_memory(real_data, tmp_path):
    glove, corpus = real_data / "glove/glove.6B.50d.txt.gz", real_data / "semeval2010-task8/TRAIN_FILE.TXT"
    sentences = re.findall(r'^\d+\t"(.*)"', corpus.read_text(), flags=re.MULTILINE)
    counts = count_words(tokenize(sentence, Tokens(numbers="keep")) for sentence in sentences)
    write_words(counts, tmp_path / "words.csv")
    megabytes, words, percent = measure_process(COST, tmp_path / "words.csv", glove)
    assert words > 400_000 + len(SPECIALS)
    assert percent > 97
    assert megabytes < 500
