"""``ullava calibrate``: fit to held-out questions how sure a model is that a thing is there, where masks end, and which
of several candidates is right.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "fit presence, where masks end, or a judge of candidates to held-out questions"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava calibrate``."""
    parser.add_argument("--model", required=True, metavar="NAME", help="name, model.yaml or folder; its config changes")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--predictions", type=Path, metavar="FILE", help="presence: predictions.jsonl of the model's evaluation"
    )
    what.add_argument("--masks", metavar="RECIPE", help="where masks end: a recipe of configs/eval to ask it by")
    what.add_argument(
        "--judge", metavar="RECIPE",
        help="judge of candidates: a recipe to ask the model by; it lies in DIR/judge beside the weights then",
    )  # fmt: skip
    what.add_argument("--reset", action="store_true", help="take calibrations and judge away")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="with --masks, --judge: values of the recipe to replace"
    )
    parser.add_argument(
        "--dataset",
        action="append",
        metavar="ROW",
        help="this row alone (default: all rows); with --masks and --judge repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--candidates", metavar="N|SOURCES", help="with --judge: as in predict (default: those of the recipe, else 4)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="with --judge: of its weights (default: 0)")
    parser.add_argument("--keep", type=float, metavar="X", help="share of the things that are there that stay found")
    parser.add_argument("--dry-run", action="store_true", help="print what would change, and change nothing")


def run(args: argparse.Namespace) -> int:
    """Fit, print and write. Raises UserError."""
    from ullava.errors import UserError
    from ullava.inference.load import weights_folder

    folder = weights_folder(args.model)
    if args.overrides and args.masks is None and args.judge is None:
        raise UserError(f"{args.overrides[0]}: values of a recipe go with --masks RECIPE or --judge RECIPE")
    if args.candidates is not None and args.judge is None:
        raise UserError("--candidates: goes with --judge RECIPE")
    if args.masks is not None:
        return _fit_masks(args, folder)
    if args.judge is not None:
        return _fit_judge(args, folder)
    return _reset(folder) if args.reset else _fit_presence(args, folder)


def _reset(folder: Path) -> int:
    from ullava.evaluation.calibration import Calibration
    from ullava.evaluation.presence import tells_presence, write_calibration, write_mask_cut
    from ullava.modeling.heads.judge import remove_judge
    from ullava.modeling.mask_cut import MaskCut

    if tells_presence(folder):
        write_calibration(folder, Calibration())
    write_mask_cut(folder, MaskCut())
    remove_judge(folder)
    print(f"{folder}: not calibrated any more")
    return 0


def _fit_presence(args: argparse.Namespace, folder: Path) -> int:
    from ullava.errors import UserError
    from ullava.evaluation.calibration import Calibration, fit, judge, read_observed
    from ullava.evaluation.presence import calibration_of, write_calibration

    now = calibration_of(folder)
    if args.predictions is None:
        raise UserError("--predictions FILE: which evaluation to fit to (or --masks RECIPE: where masks end)")
    if args.keep is not None and not 0 < args.keep < 1:
        raise UserError(f"--keep has to be between 0 and 1, not {args.keep}")
    if now != Calibration():
        raise UserError(f"{folder}: is calibrated already; --reset, evaluate again, then calibrate")
    if len(args.dataset or ()) > 1:
        raise UserError(f"--dataset {args.dataset[1]}: presence is fitted to one row, or to all")
    seen = read_observed(args.predictions, args.dataset[0] if args.dataset else None)
    fitted = fit(seen, args.keep)
    for name, chosen in (("as it is", now), ("calibrated", fitted)):
        figures = "  ".join(f"{what} {value:5.1f}" for what, value in judge(seen, chosen).items())
        print(f"{name:<12} {figures}  (scale {chosen.scale:g}, shift {chosen.shift:g})")
    print(f"{int(seen.there.sum())} things that are there, {int((~seen.there).sum())} that are not")
    if not args.dry_run:
        write_calibration(folder, fitted)
        print(f"written: {folder / 'config.json'}")
    return 0


def _asked(args: argparse.Namespace, name: str) -> tuple[Any, dict[str, Any]]:
    """The recipe ``name`` and the data sets of it that are asked, by label."""
    from ullava.cli.recipes import read_recipe
    from ullava.config.schema import EvalRecipe
    from ullava.data.loading.build import build_datasets
    from ullava.errors import ConfigError, did_you_mean

    recipe, path = read_recipe(EvalRecipe, name, args.overrides)
    chosen = list(dict.fromkeys(args.dataset or recipe.dataset))
    for label in chosen:
        if label not in recipe.dataset:
            raise ConfigError(f"{path}: no row '{label}'{did_you_mean(label, recipe.dataset)}")
    entries = {label: recipe.dataset[label] for label in chosen}
    return recipe, dict(zip(chosen, build_datasets(entries, Path(recipe.data_root)), strict=True))


def _fit_judge(args: argparse.Namespace, folder: Path) -> int:
    from ullava.config.candidates import CandidatesConfig
    from ullava.evaluation.candidate_judge import bounds, collect, figures, fit
    from ullava.inference.candidates import Candidates, check_sources, judged_widths
    from ullava.inference.load import load
    from ullava.modeling.heads.judge import write_judge

    recipe, datasets = _asked(args, args.judge)
    config = recipe.candidates or CandidatesConfig(sources=["beams"])
    if args.candidates is not None:
        config = CandidatesConfig.read(args.candidates)
    predictor = load(str(folder), device=recipe.device, dtype=recipe.dtype)
    check_sources(predictor, config)
    judged = collect(Candidates(predictor, config), datasets, recipe)
    judge = fit(judged, judged_widths(predictor), seed=args.seed)
    for name, part in (
        ("learned from", [one for one in judged if not one.held]),
        ("held back", [one for one in judged if one.held]),
    ):
        lines = {"score": figures(part, None), "judge": figures(part, judge), **bounds(part)}
        print(f"{name}: {len(part)} questions, {sum(len(one.ious) for one in part) / len(part):.1f} candidates each")
        for which in ("single", "score", "judge", "oracle"):
            print(f"  {which:<8}" + "  ".join(f"{what} {value:5.1f}" for what, value in lines[which].items()))
    print(f"{sum(weight.numel() for weight in judge.parameters())} parameters")
    if not args.dry_run:
        print(f"written: {write_judge(judge, folder)}")
    return 0


def _fit_masks(args: argparse.Namespace, folder: Path) -> int:
    from ullava.evaluation.mask_threshold import try_thresholds
    from ullava.evaluation.presence import write_mask_cut
    from ullava.inference.load import load
    from ullava.inference.mask_cuts import MaskCuts

    recipe, datasets = _asked(args, args.masks)
    predictor = load(str(folder), device=recipe.device, dtype=recipe.dtype)
    tried = try_thresholds(MaskCuts(predictor), datasets, recipe)
    now = predictor.model.config.mask_cut
    for at, figures in tried.figures.items():
        if at.peak_gap not in (None, now.peak_gap, tried.best.peak_gap):
            continue
        line = "  ".join(f"{name} {figures[name]:5.1f}" for name in ("cIoU", "gIoU", "P@0.5"))
        print(f"{at!s:<27}  {line}{'  <' if at == tried.best else ''}")
    print(f"{tried.questions} questions; masks were cut by {now}, best is {tried.best}")
    if not args.dry_run:
        write_mask_cut(folder, tried.best)
        print(f"written: {folder / 'config.json'}")
    return 0
