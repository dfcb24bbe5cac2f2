import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bilstm_attention.data.dataset import Rows, by_length, encode, pad, steps_per_epoch, training_batches
from bilstm_attention.data.tokens import Vocabulary

modest = settings(max_examples=60, deadline=None)  # a busy machine must not fail a test
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=300)
batch_sizes = st.integers(1, 9)
budgets = st.integers(1, 200)
seeds = st.integers(0, 2**31 - 1)


def rows_of(lengths: list[int]) -> Rows:
    """Rows whose tokens are their own number, from 1, again and again."""
    return Rows.of(
        [np.full(length, number, np.int32) for number, length in enumerate(lengths, 1)],
        np.zeros(len(lengths), np.int32),
    )


def like_sentences(count: int) -> list[int]:
    """Lengths as relation sentences have them: 23 tokens on average, 38 at the 95th percentile."""
    return np.random.default_rng(0).lognormal(np.log(21.5), 0.36, count).round().clip(5, 99).astype(int).tolist()


def padding(rows: Rows, batches: list[NDArray[np.int64]]) -> float:
    """Share of padding among all cells."""
    cells = sum(pad(rows, batch).size for batch in batches)
    return 1 - int(rows.lengths.sum()) / cells


@modest
@given(lengths, batch_sizes, st.integers(0, 2**31 - 1), st.integers(1, 50))
def test_an_epoch_shows_each_row_exactly_once(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    batches = training_batches(rows_of(lengths), size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))


@modest
@given(lengths, batch_sizes)
def test_batches_are_full_but_for_one(lengths: list[int], size: int) -> None:
    sizes = sorted((len(batch) for batch in training_batches(rows_of(lengths), size, seed=0, epoch=1)), reverse=True)
    full, rest = divmod(len(lengths), size)
    assert sizes == [size] * full + [rest] * bool(rest)


@modest
@given(lengths, batch_sizes, st.integers(0, 2**31 - 1), st.integers(1, 50))
def test_seed_and_epoch_alone_fix_the_batches(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    first = training_batches(rows_of(lengths), size, seed, epoch)
    np.random.default_rng(seed).random(7)
    training_batches(rows_of(lengths), size, seed, epoch + 1)
    again = training_batches(rows_of(lengths), size, seed, epoch)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 2), (1, 1), (2, 0)])
def test_another_seed_or_epoch_draws_other_batches_in_another_order(seed: int, epoch: int) -> None:
    rows = rows_of(like_sentences(200))
    first, other = training_batches(rows, 8, 0, 1), training_batches(rows, 8, seed, epoch)
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in other]
    assert {frozenset(batch.tolist()) for batch in first} != {frozenset(batch.tolist()) for batch in other}


def test_batches_do_not_come_in_order_of_length() -> None:
    rows = rows_of(like_sentences(400))
    longest = np.array([rows.lengths[batch].max() for batch in training_batches(rows, 8, seed=0, epoch=1)])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_bucketing_leaves_a_tenth_of_the_padding_of_random_batches() -> None:
    rows = rows_of(like_sentences(8000))
    random = np.array_split(np.random.default_rng(0).permutation(8000), 250)
    bucketed, at_random = padding(rows, training_batches(rows, 32, seed=0, epoch=1)), padding(rows, random)
    assert at_random > 0.3
    assert bucketed < at_random / 10


def cells_of_the_best_fixed_lengths(lengths: list[int], count: int) -> int:
    """Cells when each row is padded to the next of `count` lengths, chosen so that they are as few as can be.

    Dynamic programming: `least[T]` is that of the rows of up to T tokens, T being one of the lengths chosen so far.
    """
    longest = max(lengths)
    upto = np.cumsum(np.bincount(lengths, minlength=longest + 1))
    sizes = np.arange(longest + 1)
    # [from, to]: the rows longer than `from`, up to `to`, each padded to `to`
    between = np.where(sizes[:, None] < sizes, (upto - upto[:, None]) * sizes, np.inf)
    least = between[0]
    for _ in range(count - 1):
        least = (least[:, None] + between).min(axis=0)
    return int(least[longest])


def test_the_best_fixed_lengths_are_found() -> None:
    few = [1, 2, 2, 3, 7, 9, 9, 9]
    by_hand = {(k,): 9 * len(few) for k in (9,)} | {(k, 9): sum(k if n <= k else 9 for n in few) for k in range(1, 9)}
    assert cells_of_the_best_fixed_lengths(few, 1) == by_hand[9,]
    assert cells_of_the_best_fixed_lengths(few, 2) == min(by_hand.values())
    assert cells_of_the_best_fixed_lengths(few, 5) == sum(few)


@pytest.mark.parametrize("size", [10, 32])
def test_pools_leave_less_padding_than_the_best_eight_fixed_lengths(size: int) -> None:
    sentences = like_sentences(8000)
    rows = rows_of(sentences)
    fixed = 1 - sum(sentences) / cells_of_the_best_fixed_lengths(sentences, 8)
    assert padding(rows, training_batches(rows, size, seed=0, epoch=1)) < fixed


@modest
@given(lengths, batch_sizes, seeds, st.integers(1, 50))
def test_the_steps_of_an_epoch_are_its_batches(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    rows = rows_of(lengths)
    assert steps_per_epoch(rows, size) == len(training_batches(rows, size, seed, epoch))


@modest
@given(lengths, batch_sizes)
def test_prediction_batches_cover_every_row_from_short_to_long(lengths: list[int], size: int) -> None:
    batches = list(by_length(rows_of(lengths), size))
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert np.all(np.diff(np.array(lengths)[order]) >= 0)
    assert all(len(batch) == size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= size


@modest
@given(lengths, st.data())
def test_a_padded_batch_is_its_rows_and_then_zeros(lengths: list[int], data: st.DataObject) -> None:
    rows = rows_of(lengths)
    batch = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    padded = pad(rows, batch)
    assert padded.dtype == np.int32
    assert padded.shape == (len(batch), max(lengths[number] for number in batch))
    for line, number in zip(padded, batch, strict=True):
        assert line.tolist() == [number + 1] * lengths[number] + [0] * (padded.shape[1] - lengths[number])


def test_rows_know_their_number_and_lengths() -> None:
    rows = rows_of([3, 1, 2])
    assert len(rows) == 3
    assert rows.lengths.tolist() == [3, 1, 2]
    assert (
        [rows.row(number).tolist() for number in range(3)] == [row.tolist() for row in rows] == [[1] * 3, [2], [3] * 2]
    )
    assert (rows.tokens.dtype, rows.starts.dtype) == (np.int32, np.int64)
    empty = Rows.of([], np.zeros(0, np.int32))
    assert (len(empty), len(empty.lengths), empty.tokens.dtype) == (0, 0, np.int32)


def test_encoding_numbers_words_and_labels_and_reads_an_unknown_word_as_unk() -> None:
    examples = pd.DataFrame({"tokens": [["<e1>", "cat", "</e1>"], ["dog", "emu"]], "label": ["b", "a"]})
    rows = encode(examples, Vocabulary(["cat", "dog"]), ["a", "b"])
    assert [tokens.tolist() for tokens in rows] == [[2, 6, 3], [7, 1]]
    assert rows.labels.tolist() == [1, 0]
    assert {array.dtype for array in (rows.tokens, rows.labels)} == {np.dtype(np.int32)}
