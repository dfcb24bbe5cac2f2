"""Messages list what is wrong, the first twenty, and guess what was meant."""

import pytest

from bilstm_attention.errors import (
    OFFENDERS_SHOWN,
    DataError,
    FetchError,
    ParamsError,
    TrainingError,
    UserError,
    did_you_mean,
    join_lines,
)


def test_a_listing_shows_the_first_twenty_and_counts_the_rest() -> None:
    lines = [f"row {number}" for number in range(OFFENDERS_SHOWN + 3)]
    assert join_lines(lines[:OFFENDERS_SHOWN]) == "\n".join(lines[:OFFENDERS_SHOWN])
    assert join_lines(iter(lines)).splitlines() == [*lines[:20], "... and 3 more"]
    assert join_lines([]) == ""


def test_the_nearest_legal_name_is_offered_and_a_far_one_is_not() -> None:
    assert did_you_mean("lstm_unit", ["lstm_units", "merge"]) == "; did you mean 'lstm_units'?"
    assert did_you_mean("qqq", iter(["lstm_units", "merge"])) == ""


@pytest.mark.parametrize("kind", [ParamsError, DataError, FetchError, TrainingError])
def test_every_fault_a_user_can_mend_is_printed_without_a_traceback(kind: type[Exception]) -> None:
    assert issubclass(kind, UserError)
