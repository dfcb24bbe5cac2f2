"""What is told of a Dask cluster that cannot be used; what one does, `tests/pipeline/test_dask_prepare.py`."""

from bilstm_attention.search.dask import lost


def test_workers_without_this_package_are_told() -> None:
    told = lost("tcp://a:1", RuntimeError("Error during deserialization of the task graph"), "Try again.")
    assert "--dask tcp://a:1: " in str(told)
    assert "install the same there" in str(told)
    assert "Try again" not in str(told)


def test_any_other_loss_is_told_with_what_to_do() -> None:
    told = lost("tcp://a:1", OSError("broken pipe"), "Try again.")
    assert str(told) == "--dask tcp://a:1: the cluster lost what it was given (OSError). Try again."
