"""``ullava convert``: pickled or foreign weights into a folder of safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn .pth, .bin or foreign weights into our safetensors folders"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands ``checkpoint`` and ``sam``."""
    commands = parser.add_subparsers(dest="convert_command", metavar="{checkpoint,sam}", required=True)
    checkpoint = commands.add_parser("checkpoint", help="a state dict of one of our models")
    checkpoint.add_argument("--from", dest="source", type=Path, required=True, help="weight file, or folder of shards")
    checkpoint.add_argument("--model", required=True, help="model the weights belong to: a name or a model.yaml")
    checkpoint.add_argument("--out", type=Path, required=True, help="folder to make")
    sam = commands.add_parser("sam", help="a segment-anything checkpoint (sam_vit_b/l/h)")
    sam.add_argument("--from", dest="source", type=Path, required=True, help="the .pth file")
    sam.add_argument("--out", type=Path, required=True, help="folder to make; name it as mask.sam.path in a model.yaml")
    sam.add_argument("--decoder-heads", type=int, default=8, help="heads of the mask decoder (8 in all released files)")


def run(args: argparse.Namespace) -> int:
    """Convert and say where the result is."""
    from ullava.modeling.weights.conversion import convert_checkpoint, convert_sam_file

    if args.convert_command == "sam":
        out = convert_sam_file(args.source, args.out, args.decoder_heads)
    else:
        from ullava import resources
        from ullava.config.load import load_config
        from ullava.config.schema import ModelConfig

        path = resources.find("models", args.model)
        out = convert_checkpoint(args.source, load_config(ModelConfig, path), path.parent, args.out)
    print(f"{out}: weights and {out / 'conversion.json'}")
    return 0
