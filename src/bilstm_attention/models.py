"""The commands about logged models: list them, promote one, take that back."""

from typing import Any

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.params import load_params


def list_models() -> None:
    """Prints the registered versions of the corpus's model, the champion among them, and how it came to be that."""
    from rich.console import Console

    from bilstm_attention.insight.tables import models_table

    registry = _registry()
    Console().print(models_table(registry.name, registry.versions()))
    for event in registry.history():
        print(event)


def promote(wanted: str, if_better: bool) -> None:
    """Makes the version of a run champion, and says how it did on dev against the present one.

    Args:
        wanted: id of a run, or `best`.
        if_better: only if its dev score is better.
    """
    registry = _registry()
    version = registry.find(wanted, load_params(paths.PARAMS).train.monitor)
    present = next((each for each in registry.versions() if each.champion), None)
    print(_line(version))
    if present is None:
        registry.promote(version)
        print(f"{registry.name}: version {version.number} is the first champion.")
        return
    if present.number == version.number:
        print(f"{registry.name}: it is the champion already.")
        return
    print(f"{_line(present)}, the present champion")
    try:
        better, said = registry.better(version, present)
    except UserError as error:
        if if_better:
            raise
        better, said = False, str(error)
    print(f"difference: {said}")
    if if_better and not better:
        print(f"{registry.name}: version {present.number} stays champion.")
        return
    registry.promote(version)
    print(f"{registry.name}: version {version.number} is champion; `bilstm-attention rollback` takes that back.")


def rollback() -> None:
    """Makes the last champion but one champion again."""
    registry = _registry()
    print(f"{registry.name}: version {registry.rollback()} is champion again.")


def _registry() -> Any:
    from bilstm_attention.experiment.registry import Registry
    from bilstm_attention.experiment.runs import model_name
    from bilstm_attention.experiment.tracking import Store

    params = load_params(paths.PARAMS)
    return Registry(Store(), model_name(params))


def _line(version: Any) -> str:
    score = f"{version.dev:.{4 if version.monitor == 'loss' else 2}f}"
    return f"version {version.number}, {version.run_name}, run {version.run}: dev {version.monitor} {score}"
