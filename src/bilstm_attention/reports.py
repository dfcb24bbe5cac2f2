"""The command that puts runs side by side on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.overrides import flatten
from bilstm_attention.params import load_params
from bilstm_attention.terminal import closing, start_tensorflow

NEWEST = 3


def report(wanted: Sequence[str], output: Path) -> None:
    """Writes the page of some runs, or, of one run with several seeds, of its seeds.

    Args:
        wanted: ids of runs that were evaluated; by default the newest few of the corpus.
        output: the HTML file to write.
    """
    from bilstm_attention.experiment.archive import evaluated
    from bilstm_attention.experiment.runs import corpus_name
    from bilstm_attention.experiment.tracking import Tracker
    from bilstm_attention.insight import report as page

    params = load_params(paths.PARAMS)
    found = evaluated(Tracker(corpus_name(params)), wanted, NEWEST)
    runs = [found[0].alone(seed) for seed in found[0].seeds] if len(found) == 1 and len(found[0].seeds) > 1 else found
    page.check_comparable(runs)
    attention = _attention(runs, page.telling(runs))
    page.report(runs, runs[0].params["train.monitor"], attention, output)
    closing(f"report {output}", {"runs": len(runs), "with attention": len(attention)})


def _attention(runs: Sequence[Any], ids: Sequence[str]) -> dict[int, Any]:
    """By place, how the model of each run reads some dev sentences, where they and the model are at hand."""
    start_tensorflow()
    from bilstm_attention.experiment.task import load_split
    from bilstm_attention.insight.reading import read_sentences

    if not (paths.PREPARED / "dev.parquet").exists():
        return {}
    dev = load_split("dev").set_index("id")
    gold = runs[0].dev.set_index("id")["gold"]
    if not set(ids) <= set(dev.index) or dev.loc[list(ids), "label"].tolist() != gold[list(ids)].tolist():
        # this checkout has another corpus, or another split of it
        return {}
    rows = dev.loc[list(ids)]
    tokens, found = rows["tokens"].tolist(), {}
    read_as = _tokens(flatten(load_params(paths.PARAMS)))
    for place, run in enumerate(runs):
        if _tokens(run.params) != read_as:
            print(f"{run.name}: no attention of it; it reads sentences otherwise than this checkout (data.tokens)")
        elif classifier := _classifier(run):
            encoded = classifier.encoded(tokens)
            found[place] = read_sentences(classifier.model, encoded, tokens, rows["label"].tolist(), classifier.labels)
    return found


def _tokens(params: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of how sentences become tokens."""
    return {name: str(value) for name, value in params.items() if name.startswith("data.tokens.")}


def _classifier(run: Any) -> Any:
    """The model of the only seed if it is that of this checkout, else the one that the run logged, or None."""
    from bilstm_attention.experiment.environment import sha256
    from bilstm_attention.experiment.registry import fetch_model
    from bilstm_attention.experiment.task import load_labels, load_vocabulary
    from bilstm_attention.network.classifier import load_classifier
    from bilstm_attention.serving import TextClassifier, load_folder

    for seed, digest in run.models.items():
        file = paths.seed_folder(seed) / "model.keras"
        if len(run.models) == 1 and file.exists() and sha256(file) == digest:
            data = load_params(paths.PARAMS).data
            return TextClassifier(load_classifier(file), load_vocabulary(), load_labels(), data)
    if run.one_of_several:
        # the model that the run logged may be of another seed
        return None
    try:
        with TemporaryDirectory() as folder:
            return load_folder(fetch_model(run.run, Path(folder)))
    except UserError as error:
        print(f"{run.name}: no attention of it, {error}")
        return None
