"""``ullava calibrate``: fit a model's score of things being there to an evaluation of it."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "fit how sure a model is that a thing is there (presence) to an evaluation"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava calibrate``."""
    parser.add_argument("--model", required=True, metavar="NAME", help="name, model.yaml or folder; its config changes")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="predictions.jsonl of its evaluation")
    parser.add_argument("--dataset", metavar="ROW", help="answers of this row alone (default: all with absent things)")
    parser.add_argument("--keep", type=float, metavar="X", help="share of the things that are there that stay found")
    parser.add_argument("--dry-run", action="store_true", help="print what would change, and change nothing")
    parser.add_argument("--reset", action="store_true", help="take the calibration away")


def run(args: argparse.Namespace) -> int:
    """Fit, print and write. Raises UserError."""
    from ullava.errors import UserError
    from ullava.evaluation.calibration import Calibration, fit, judge, read_observed
    from ullava.evaluation.presence import calibration_of, write_calibration
    from ullava.inference.load import weights_folder

    folder = weights_folder(args.model)
    now = calibration_of(folder)
    if args.reset:
        write_calibration(folder, Calibration())
        print(f"{folder}: not calibrated any more")
        return 0
    if args.predictions is None:
        raise UserError("--predictions FILE: which evaluation to fit to")
    if args.keep is not None and not 0 < args.keep < 1:
        raise UserError(f"--keep has to be between 0 and 1, not {args.keep}")
    if now != Calibration():
        raise UserError(f"{folder}: is calibrated already; --reset, evaluate again, then calibrate")
    seen = read_observed(args.predictions, args.dataset)
    fitted = fit(seen, args.keep)
    for name, chosen in (("as it is", now), ("calibrated", fitted)):
        figures = "  ".join(f"{what} {value:5.1f}" for what, value in judge(seen, chosen).items())
        print(f"{name:<12} {figures}  (scale {chosen.scale:g}, shift {chosen.shift:g})")
    print(f"{int(seen.there.sum())} things that are there, {int((~seen.there).sum())} that are not")
    if not args.dry_run:
        write_calibration(folder, fitted)
        print(f"written: {folder / 'config.json'}")
    return 0
