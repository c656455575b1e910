"""``ullava convert``: pickled or foreign weights into a folder of safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn .pth, .bin or foreign weights into our safetensors folders"

KINDS = {
    "checkpoint": "a state dict of one of our models",
    "ullava": "a released folder of u-LLaVA (stage I, stage II, or stage II without box head)",
    "sam": "a segment-anything checkpoint (sam_vit_b/l/h)",
    "merge": "the adapter/ folder of a LoRA run, folded into the weights that it was trained on",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand for each kind of weights."""
    commands = parser.add_subparsers(dest="convert_command", metavar="{" + ",".join(KINDS) + "}", required=True)
    parsers = {kind: commands.add_parser(kind, help=text) for kind, text in KINDS.items()}
    for part in parsers.values():
        part.add_argument("--from", dest="source", type=Path, required=True, help="weight file, or folder of shards")
        part.add_argument("--out", type=Path, required=True, help="folder to make")
    parsers["checkpoint"].add_argument(
        "--model", required=True, help="model the weights belong to: a name or a model.yaml"
    )
    for kind in ("ullava", "sam"):
        parsers[kind].add_argument(
            "--decoder-heads", type=int, default=8, help="heads of SAM's mask decoder (8 in all released files)"
        )
    parsers["merge"].add_argument("--base", type=Path, help="folder of those weights, where they were moved")
    ullava = parsers["ullava"]
    ullava.add_argument("--tokenizer", type=Path, help="folder of tokenizer.model, where it is not beside the weights")
    ullava.add_argument("--sam", type=Path, help="converted SAM to put beside a stage I checkpoint, which has none")
    ullava.add_argument(
        "--template",
        choices=("conv_simple", "conv_sep2", "conv_llama2"),
        help="conversation style (default: the stage's)",
    )
    ullava.add_argument("--seed", type=int, default=0, help="of parts that the layout lacks")


def run(args: argparse.Namespace) -> int:
    """Convert, say where the result is and what the report holds."""
    from ullava.modeling.weights.conversion import print_report

    out = _convert(args)
    print_report(out)
    return 0


def _convert(args: argparse.Namespace) -> Path:
    from ullava.modeling.weights import conversion

    if args.convert_command == "sam":
        return conversion.convert_sam_file(args.source, args.out, args.decoder_heads)
    if args.convert_command == "ullava":
        from ullava.modeling.weights.conversion_released import ReleasedOptions, convert_released

        options = ReleasedOptions(args.tokenizer, args.sam, args.decoder_heads, args.template, args.seed)
        return convert_released(args.source, args.out, options)
    if args.convert_command == "merge":
        from ullava.training.lora import merge_to_folder

        return merge_to_folder(args.source, args.out, args.base)
    from ullava import resources
    from ullava.config.load import load_config
    from ullava.config.schema import ModelConfig

    path = resources.find("models", args.model)
    return conversion.convert_checkpoint(args.source, load_config(ModelConfig, path), path.parent, args.out)
