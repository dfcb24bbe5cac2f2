from bilstm_attention.insight.comparison_page import _p


def test_p_is_a_bound_where_no_exchange_made_as_much_difference() -> None:
    assert [_p(p) for p in (1 / 1001, 2 / 1001, 0.5, None)] == ["≤ 0.001", "0.002", "0.500", ""]
