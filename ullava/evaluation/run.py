"""A whole recipe: every data set, one process or several, results in a folder.

``metrics.json`` is ``{"model", "protocol", "results": [{"dataset", "split", "task", "n", "skipped", "metrics"}]}``.
A result may also have ``details`` (figures by class or by kind of question), ``by_choice`` (figures by what the
vision encoder chose), ``intervals`` (``bootstrap``), ``left_out`` (why figures are not defined) and a ``note``. Where
questions may be about things that are not there, ``risk_coverage.json`` and ``.png`` lie beside it (risk_curve.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ullava.atomic_write import check_folder, write_json
from ullava.config.schema import EvalRecipe
from ullava.data.loading.build import build_datasets
from ullava.data.loading.descriptor import load_descriptor
from ullava.data.readers.base import TaskDataset
from ullava.errors import ConfigError, DataError, UserError
from ullava.evaluation.fingerprint import dataset_identity, judge_identity, model_identity
from ullava.evaluation.intervals import bootstrap
from ullava.evaluation.metrics.rows import Metric, Row
from ullava.evaluation.protocol import GIVEN_FIGURES, GIVEN_TASKS, READ_TASKS, Answerer, DatasetRun, stored_questions
from ullava.evaluation.result_store import RunFolder, Shard, read_lines
from ullava.evaluation.risk_curve import write_curves
from ullava.evaluation.scorers import scorer_for
from ullava.evaluation.scoring import family_of
from ullava.evaluation.video_answers import finished_answers
from ullava.evaluation.video_submission import check_submission, write_submission

if TYPE_CHECKING:
    from ullava.modeling.heads.mask_cache import MaskCache

T = TypeVar("T")

GIVEN_ENDS = tuple(f" {name}" for name in GIVEN_FIGURES)
FORMAT = 2
"""Of ``run.json`` and of the lines of ``predictions.jsonl``; a folder of another format is not continued."""


def evaluate_recipe(
    recipe: EvalRecipe,
    out_dir: Path,
    *,
    results: Path | None = None,
    submission: Path | None = None,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Open the data sets of a recipe, load its model and evaluate; see ``evaluate``.

    ``results``: finished masks of clips (ullava.evaluation.video_answers) in the place of a model. ``submission``: a
    new folder for the mask images that a server takes. Data sets come first, so that a missing file is not found after
    minutes of loading. Raises UserError.
    """
    check_entries(recipe)
    check_folder(out_dir)
    built = build_datasets(recipe.dataset, Path(recipe.data_root))
    datasets = dict(zip(recipe.dataset, built, strict=True))
    if submission is not None:
        check_submission(datasets, submission)
    predictor: Answerer
    cache: MaskCache | None = None
    if results is not None:
        predictor, recipe = finished_answers(results), replace(recipe, model=str(results))
        _check_finished(recipe, datasets)
    else:
        predictor, cache = _loaded(recipe)
    metrics = evaluate(predictor, datasets, recipe, out_dir, shard=Shard.from_environment(), progress=progress)
    if cache is not None:
        print(cache.told())
    if submission is not None and metrics is not None:
        (dataset,) = datasets.values()
        write_submission(out_dir / "predictions.jsonl", dataset, submission)
    return metrics


def _loaded(recipe: EvalRecipe) -> tuple[Answerer, MaskCache | None]:
    """Load the model, and the cache of its mask encoder's maps where the recipe asks for one."""
    from ullava.inference.candidates import choosing
    from ullava.inference.load import load, weights_folder
    from ullava.modeling.construction.mask_caching import use_mask_cache

    predictor = load(recipe.model, device=own_device(recipe.device), dtype=recipe.dtype, quantize=recipe.quantize)
    predictor.overrides, predictor.clip_masks = recipe.overrides, recipe.clip_masks
    cache = None
    if recipe.mask_cache is not None:
        model, processor = predictor.model, predictor.processor
        cache = use_mask_cache(model, processor, recipe.mask_cache, device=predictor.device.type)
    if recipe.candidates is None:
        return predictor, cache
    return choosing(predictor, recipe.candidates, weights_folder(recipe.model)), cache


def _check_finished(recipe: EvalRecipe, datasets: Mapping[str, TaskDataset]) -> None:
    """Refuse what finished masks of clips cannot be held against. Raises ConfigError."""
    problems = [
        f"dataset.{label}: --results hold masks of clips (task rvos), this is {dataset.task}"
        for label, dataset in datasets.items()
        if dataset.task != "rvos"
    ]
    if len(datasets) > 1:
        problems.append(f"--results: are of one data set, the recipe has {len(datasets)}: {', '.join(datasets)}")
    if problems:
        raise ConfigError(problems)


def evaluate(
    predictor: Answerer,
    datasets: Mapping[str, TaskDataset],
    recipe: EvalRecipe,
    out_dir: Path,
    *,
    shard: Shard | None = None,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Evaluate ``datasets`` (by label) and write ``out_dir``; return what ``metrics.json`` holds.

    Of ``recipe`` the settings are used (protocol, batch size, budget …) and, by label, the entries. Goes on where an
    earlier run of the same things in the same folder stopped. Processes other than 0 do their share and return None.
    Raises ConfigError if the folder holds another evaluation, DataError if too many samples are bad.
    """
    if recipe.batch_size < 1:
        raise ConfigError(f"batch_size: must be at least 1, not {recipe.batch_size}")
    folder = RunFolder(out_dir, shard or Shard())
    families = {label: family_of(dataset) for label, dataset in datasets.items()}
    for label, family in families.items():
        scorer_for(family, recipe)
        if family == "rvos":
            _check_rvos(label, predictor, recipe)
    folder.begin(_identity(predictor, datasets, families, recipe))
    try:
        stored = stored_questions(folder.records(), datasets, folder.predictions)
        for label, dataset in datasets.items():
            if _given(families[label], recipe):
                continue
            done, totals = stored.get(label, ({}, {}))
            DatasetRun(predictor, dataset, label, recipe, folder).run(done, totals, progress)
    except (UserError, OSError) as error:
        with suppress(OSError):  # the disk may be what this process gave up for
            folder.finish(error.problems if isinstance(error, UserError) else [str(error)])
        raise
    folder.finish()
    if folder.shard.rank > 0:
        return None
    folder.wait_for_others()
    labels = list(datasets)
    folder.merge(lambda record: (labels.index(record["dataset"]), record["item"], record["query"]))
    metrics, curves = _summary(datasets, families, recipe, out_dir)
    write_curves(curves, out_dir)
    write_json(out_dir / "metrics.json", metrics)
    return metrics


def _check_rvos(label: str, predictor: Answerer, recipe: EvalRecipe) -> None:
    """Refuse a model that gives no masks of clips, and protocols that would give them away. Raises ConfigError."""
    if recipe.protocol != "generate":
        raise ConfigError(f"dataset.{label}: the task rvos has the protocol generate, not {recipe.protocol}")
    if not getattr(predictor, "masks_in_videos", False):
        raise ConfigError(
            f"dataset.{label}: the task rvos wants masks through a video, which this model does not make by itself: "
            "clip_masks: frames asks its mask head anew in every frame (docs/video.md); finished masks are scored with "
            "--results"
        )


def check_entries(recipe: EvalRecipe) -> None:
    """Refuse what has no meaning in evaluation, and a split left open. Raises UserError with all problems."""
    problems: list[str] = []
    if recipe.candidates is not None and recipe.protocol != "generate":
        problems.append(f"candidates: go with the protocol generate, not {recipe.protocol}: nothing is chosen there")
    if not recipe.dataset:
        problems.append("dataset: nothing to evaluate on")
    for label, entry in recipe.dataset.items():
        for name in ("portion", "weight"):
            if getattr(entry, name) is not None:
                problems.append(
                    f"dataset.{label}.{name}: means nothing in evaluation ('limit' keeps the first records)"
                )
        try:
            _, config = load_descriptor(entry.dataset or label)
        except UserError as error:
            problems.extend(error.problems)
            continue
        if entry.split is None and len(config.splits) > 1:
            problems.append(f"dataset.{label}.split: say which one; known: {', '.join(config.splits)}")
    if problems:
        raise ConfigError(problems)


def own_device(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the device of this process: its own accelerator (``LOCAL_RANK``) where there are several processes."""
    local = environment.get("LOCAL_RANK")
    if local is None or device not in ("auto", "cuda"):
        return device
    import torch

    return f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.is_available() else device


def _identity(
    predictor: Answerer, datasets: Mapping[str, TaskDataset], families: Mapping[str, str], recipe: EvalRecipe
) -> dict[str, Any]:
    """Return what must not change between an interrupted run and the one that continues it."""
    data = {}
    for label, dataset in datasets.items():
        entry = recipe.dataset.get(label)
        data[label] = {
            "dataset": dataset.id,
            "split": dataset.split,
            "task": families[label],
            "annotations": dataset_identity(dataset),
            "limit": entry.limit if entry else None,
            "group": entry.group if entry else "item",
            "template": entry.template if entry else None,
            **{
                name: getattr(entry, name)
                for name in ("min_area", "absent")
                if entry is not None and getattr(entry, name) is not None
            },
        }
    return {
        "format": FORMAT,
        "model": {"name": recipe.model, "weights": model_identity(predictor)},
        "protocol": recipe.protocol,
        **({"text_box_frame": recipe.text_box_frame} if recipe.protocol == "text_box" else {}),
        "max_new_tokens": recipe.max_new_tokens,
        **({"caption_beams": recipe.caption_beams} if recipe.caption_beams > 1 else {}),
        "dtype": recipe.dtype,
        **({"overrides": recipe.overrides} if recipe.overrides else {}),
        **({"quantize": recipe.quantize} if recipe.quantize else {}),
        **({"clip_masks": recipe.clip_masks} if recipe.clip_masks else {}),
        **({"candidates": asdict(recipe.candidates), "judge": judge_identity(predictor)} if recipe.candidates else {}),
        **({"phrase_similarity": recipe.phrase_similarity} if "gcg" in families.values() else {}),
        "data": data,
    }


def _summary(
    datasets: Mapping[str, TaskDataset], families: Mapping[str, str], recipe: EvalRecipe, out_dir: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the figures from the merged lines, and by label the risk-coverage curves.

    Raises DataError if more samples are bad than the budget allows.
    """
    records: dict[str, list[dict[str, Any]]] = {label: [] for label in datasets}
    for record in read_lines(out_dir / "predictions.jsonl"):
        # The masks are not needed any more and would be the bulk of what is held.
        records[record["dataset"]].append(
            {key: record[key] for key in ("id", "image", "video", "chosen", "scores") if key in record}
        )
    skipped = dict.fromkeys(datasets, 0)
    for bad in read_lines(out_dir / "bad_samples.jsonl"):
        skipped[bad["dataset"]] += 1
    for label, count in skipped.items():
        if count > recipe.bad_sample_budget:
            raise DataError(
                f"dataset {label}: {count} bad samples, bad_sample_budget is {recipe.bad_sample_budget} "
                f"(listed in {out_dir / 'bad_samples.jsonl'})"
            )
    results, curves, forced = [], {}, recipe.protocol == "teacher_forced"
    for label, dataset in datasets.items():
        kind = scorer_for(families[label], recipe).kind
        metric = kind(record["scores"] for record in records[label])
        result: dict[str, Any] = {
            "dataset": label,
            "split": dataset.split,
            "task": families[label],
            "n": len(metric.rows),
            "skipped": skipped[label],
            "metrics": _earned(metric.compute(), recipe),
        }
        extras = {
            "details": {} if forced and families[label] in READ_TASKS else _earned(metric.details(), recipe),
            "by_choice": _by_choice(records[label], kind, recipe),
            "left_out": _earned(metric.left_out(), recipe),
            "intervals": _earned(bootstrap(records[label], kind, recipe.bootstrap), recipe),
            "note": "not measured: this protocol gives the answer" if _given(families[label], recipe) else "",
        }
        results.append(result | {name: value for name, value in extras.items() if value})
        if not forced and (curve := metric.curve()):
            curves[label] = curve
    held = {"quantize": recipe.quantize} if recipe.quantize else {}
    return {"model": recipe.model, **held, "protocol": recipe.protocol, "results": results}, curves


def _by_choice(
    records: Sequence[Mapping[str, Any]], kind: type[Metric], recipe: EvalRecipe
) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures again for each thing that the vision encoder chose, as far as it took one for all images of a
    question.

    ``{"granularity": {"64": {"n": 12, "metrics": {...}}}}``: how much is lost where little was looked at.
    """
    rows: dict[str, dict[int, list[Row]]] = {}
    for record in records:
        for name, values in record.get("chosen", {}).items():
            if len(set(values)) == 1:
                rows.setdefault(name, {}).setdefault(values[0], []).append(record["scores"])
    return {
        name: {
            str(value): {"n": len(found), "metrics": _earned(kind(found).compute(), recipe)}
            for value, found in sorted(groups.items())
        }
        for name, groups in rows.items()
    }


def _given(family: str, recipe: EvalRecipe) -> bool:
    """Whether the protocol gives away all that the task asks for."""
    return recipe.protocol == "teacher_forced" and family in GIVEN_TASKS


def _earned(figures: dict[str, T], recipe: EvalRecipe) -> dict[str, T]:
    """Leave out the figures that the protocol gives away, those of groups (``short N-acc``) too."""
    if recipe.protocol != "teacher_forced":
        return figures
    return {name: value for name, value in figures.items() if not f" {name}".endswith(GIVEN_ENDS)}
