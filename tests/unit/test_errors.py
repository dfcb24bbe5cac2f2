"""Messages list offenders, the first twenty, and suggest a legal name."""

from bilstm_attention.errors import OFFENDERS_SHOWN, did_you_mean, join_lines


def test_first_offenders_are_listed_and_the_rest_counted():
    lines = [f"row {number}" for number in range(OFFENDERS_SHOWN + 3)]
    assert join_lines(lines[:OFFENDERS_SHOWN]) == "\n".join(lines[:OFFENDERS_SHOWN])
    assert join_lines(iter(lines)).splitlines() == [*lines[:20], "... and 3 more"]
    assert join_lines(iter(lines), more=4).splitlines() == [*lines[:20], "... and 7 more"]
    assert join_lines([]) == ""


def test_nearest_legal_name_is_suggested_and_a_far_one_is_not():
    assert did_you_mean("lstm_unit", ["lstm_units", "merge"]) == "; did you mean 'lstm_units'?"
    assert did_you_mean("qqq", iter(["lstm_units", "merge"])) == ""
