"""The commands about logged models: list them, promote one, take that back."""

from collections.abc import Sequence
from typing import Any

from bilstm_attention import paths
from bilstm_attention.config import load_params
from bilstm_attention.errors import UserError


def list_models() -> None:
    """Prints the registered versions of the corpus's model, the champion among them, and how it came to be that."""
    from rich.console import Console

    from bilstm_attention.reports.tables import models_table

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
    versions, champion = registry.versions(), registry.champion()
    present = next((each for each in versions if each.champion), None)
    print(_line(version))
    if wanted == "best" and (others := _others(versions, version)):
        print(f"not compared, since judged by another score or on other dev sentences: version {', '.join(others)}")
    if champion is not None and present is None:
        unknown = f"{registry.name}: version {champion}, the present champion, was not registered by this project"
        if if_better:
            raise UserError(f"{unknown} and has no dev score; without --if-better it is replaced all the same.")
        print(f"{unknown}, and is replaced.")
    elif present is None:
        registry.promote(version)
        print(f"{registry.name}: version {version.number} is the first champion.")
        return
    elif present.number == version.number:
        print(f"{registry.name}: it is the champion already.")
        return
    elif not _succeeds(registry, version, present, if_better):
        print(f"{registry.name}: version {present.number} stays champion.")
        return
    registry.promote(version)
    print(f"{registry.name}: version {version.number} is champion; `bilstm-attention rollback` takes that back.")


def rollback() -> None:
    """Makes the last champion but one champion again."""
    registry = _registry()
    print(f"{registry.name}: version {registry.rollback()} is champion again.")


def _succeeds(registry: Any, version: Any, present: Any, if_better: bool) -> bool:
    """Says how a version compares with the champion, and whether it is to succeed it."""
    print(f"{_line(present)}, the present champion")
    try:
        better, said = registry.better(version, present)
    except UserError as error:
        if if_better:
            raise
        better, said = False, str(error)
    print(f"difference: {said}")
    return better or not if_better


def _others(versions: Sequence[Any], chosen: Any) -> list[str]:
    """Numbers of the versions whose scores do not compare with that of one."""
    like = chosen.monitor, chosen.sentences
    return [str(each.number) for each in versions if (each.monitor, each.sentences) != like]


def _registry() -> Any:
    from bilstm_attention.tracking.registry import Registry
    from bilstm_attention.tracking.runs import model_name
    from bilstm_attention.tracking.store import Store

    params = load_params(paths.PARAMS)
    return Registry(Store(), model_name(params))


def _line(version: Any) -> str:
    score = f"{version.dev:.{4 if version.monitor == 'loss' else 2}f}"
    return f"version {version.number}, {version.run_name}, run {version.run}: dev {version.monitor} {score}"
