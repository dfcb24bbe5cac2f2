"""The search spaces of the project, and those that their how-to shows, are legal and as large as they say."""

import re
from pathlib import Path

import pytest

from bilstm_attention.config import Params, flatten, load_params, with_overrides
from bilstm_attention.search.space import read_sweep
from bilstm_attention.yaml_files import PLAIN, read_yaml

ROOT = Path(__file__).parents[3]
SWEEPS = sorted((ROOT / "experiments/sweeps").glob("*.yaml"))
HOW_TO = (ROOT / "experiments/sweeps/README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", HOW_TO, flags=re.MULTILINE | re.DOTALL)
SHOWN = {PLAIN.load(text)["study"]: text for text in EXAMPLES if text.startswith("study:")}
PARAMS = {"params": load_params(ROOT / "params.yaml")} | {
    path.stem: with_overrides(Params(), flatten(read_yaml(path)))
    for path in sorted((ROOT / "experiments/configs").glob("*.yaml"))
}
SHARED = {"optimizer", "schedule", "batch_size", "epochs", "patience", "clip_norm"}

by_params = pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
by_sweep = pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)


@by_params
@by_sweep
def test_shipped_sweep_is_legal(path: Path, params: Params) -> None:
    sweep, space = read_sweep(path, params, {})
    assert sweep.study == path.stem
    assert {dimension.key for dimension in space.dimensions} == set(sweep.space)


@by_params
@pytest.mark.parametrize("name", SHOWN)
def test_example_of_the_readme_is_legal(name: str, params: Params, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(SHOWN[name], encoding="utf-8")
    sweep, _ = read_sweep(path, params, {})
    assert sweep.study == name


@by_params
def test_grid_is_as_large_as_its_comment_says(params: Params) -> None:
    path = ROOT / "experiments/sweeps/units-by-attention.yaml"
    text = path.read_text(encoding="utf-8")
    sweep, space = read_sweep(path, params, {})
    grid = space.grid()
    assert f"# {len(grid)} trials: " in text
    assert f"--trials {len(grid)}." in text
    assert sweep.pruner.kind == "none"
    units, kinds = sweep.space["model.lstm_units"], sweep.space["model.attention.kind"]
    cells = {(cell["model.lstm_units"], cell["model.attention.kind"]) for cell in grid}
    assert cells == {(unit, kind) for unit in units for kind in kinds}


@by_sweep
def test_readme_lists_every_sweep(path: Path) -> None:
    (trials,) = re.findall(
        rf"^\| \[{re.escape(path.name)}\]\({re.escape(path.name)}\) \|.*\| (\d+) \|$", HOW_TO, re.MULTILINE
    )
    sweep, space = read_sweep(path, PARAMS["params"], {})
    if sweep.sampler.kind == "grid":
        assert int(trials) == len(space.grid())


@by_params
def test_sweeps_of_real_corpora_share_one_budget(params: Params) -> None:
    real = [read_sweep(path, params, {})[1].base.train for path in SWEEPS if path.stem != "smoke"]
    budgets = [train.model_dump(include=SHARED) for train in real]
    assert budgets == budgets[:1] * 3


def test_regularisation_begins_with_the_values_of_params_yaml() -> None:
    _, space = read_sweep(ROOT / "experiments/sweeps/regularisation.yaml", PARAMS["params"], {})
    assert set(space.current()) == {dimension.key for dimension in space.dimensions}
