import pytest

from bilstm_attention.config import Train
from bilstm_attention.stages import _warn_of_first_weights


def test_average_that_holds_much_of_the_first_step_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    _warn_of_first_weights(Train(epochs=18, ema=0.998), steps=31)
    warning = capsys.readouterr().err
    # 0.998 to the power of 557
    assert "after 558 steps 33 % of the averaged weights are still those of the first step" in warning
    assert "at most 0.994 leaves 5 %" in warning
    enough = ((0.994, 18, 31), (0.998, 18, 245), (0.0, 1, 2), (0.9, 1, 1))
    for ema, epochs, steps in enough:
        _warn_of_first_weights(Train(epochs=epochs, ema=ema), steps)
    assert not capsys.readouterr().err
