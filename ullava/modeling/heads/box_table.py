"""The closed table of box heads: ``box.kind`` of model.yaml -> the part with weights and the part without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ullava.config.schema import BoxHeadConfig
from ullava.errors import UserError, did_you_mean
from ullava.hub import find_folder
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.box import RegressionBoxHead
from ullava.modeling.heads.box_contract import BoxHead
from ullava.modeling.heads.box_from_mask import MaskBoxHead, check_plane_frame
from ullava.modeling.heads.box_phrase import PhraseBoxHead
from ullava.modeling.heads.box_post_processing import BoxPostProcessor, PhrasePostProcessor
from ullava.modeling.heads.box_query import QueryBoxHead
from ullava.modeling.heads.detector import detector_class
from ullava.modeling.heads.mask_table import mask_row
from ullava.modeling.loading.pretrained import read_tokenizer
from ullava.modeling.loading.strict_loading import load_part, read_part

BOX_HEADS = ("regression", "mask", "grounding_dino_query", "grounding_dino_phrase")


def _unknown(kind: str) -> UserError:
    return UserError(f"unknown box head '{kind}'{did_you_mean(kind, BOX_HEADS)}")


def build_box_head(config: UllavaConfig, width_in: int) -> BoxHead:
    """Build the part with weights for states of ``width_in``. Raises UserError for a kind that is not in the table."""
    if config.box_kind == "regression":
        return RegressionBoxHead(width_in, width=config.box_width, sigmoid=config.box_sigmoid)
    if config.box_kind == "mask":
        row = mask_row(config.mask_kind, config.mask_encoder)
        check_plane_frame(config.box_frame, row.plane_frame(config.image_aspect_ratio), config.mask_kind)
        return MaskBoxHead(config.box_width)
    if config.box_kind not in BOX_HEADS:
        raise _unknown(config.box_kind)
    if config.detector_config is None:
        raise UserError(f"box head {config.box_kind} needs a detector_config")
    if config.box_kind == "grounding_dino_query":
        return QueryBoxHead(config.detector_config, width_in)
    return PhraseBoxHead(config.detector_config)


def build_box_post_processor(settings: Mapping[str, Any], frame: str) -> BoxPostProcessor:
    """Build the part without weights from the processor's ``box`` settings; ``frame`` is that of regressed boxes."""
    kind = settings["kind"]
    if kind in ("regression", "mask"):
        return BoxPostProcessor(frame, None)
    if kind == "grounding_dino_query":
        return BoxPostProcessor("norm", settings["sides"])
    if kind == "grounding_dino_phrase":
        return PhrasePostProcessor(
            settings["sides"],
            box_threshold=settings["box_threshold"],
            text_threshold=settings["text_threshold"],
            max_tokens=settings["max_tokens"],
        )
    raise _unknown(kind)


def box_settings(box: BoxHeadConfig, config: UllavaConfig) -> dict[str, Any]:
    """Return the processor's ``box`` settings for a head of model.yaml."""
    settings: dict[str, Any] = {"kind": box.kind}
    if config.detector_config is not None:
        settings["sides"] = [box.short_side, box.long_side]
    if config.detector_config is not None and box.kind == "grounding_dino_phrase":
        settings["box_threshold"], settings["text_threshold"] = box.box_threshold, box.text_threshold
        settings["max_tokens"] = int(config.detector_config.max_text_len)
    return settings


def load_box_parts(model: Any, processor: Any, box: BoxHeadConfig, folder: Path) -> None:
    """Move pretrained weights of the detector into the head, and give the rules its tokenizer, where there are any.

    Relative paths start at ``folder``. Raises WeightsError for weights that are not whole, UserError where a detector
    that reads words has no tokenizer.
    """
    if box.detector is not None and box.detector.path:
        where = f"{folder / 'model.yaml'}: box.detector.path"
        detector = find_folder(box.detector.path, folder, where, revision=box.detector.revision)
        _load_detector(model.box_head, detector)
        model.tie_weights()
    load_box_words(processor, box, folder)


def load_box_words(processor: Any, box: BoxHeadConfig, folder: Path) -> None:
    """Give the rules of a detector that reads words its tokenizer. Arguments and errors: see ``load_box_parts``."""
    if box.kind == "grounding_dino_phrase":
        where = f"{folder / 'model.yaml'}: box.phrase_tokenizer"
        named = box.phrase_tokenizer or (box.detector.path if box.detector is not None else None)
        revision = box.detector.revision if box.detector is not None and box.phrase_tokenizer is None else None
        place = find_folder(str(named), folder, where, revision=revision, weights=False)
        if not (place / "tokenizer_config.json").is_file():
            raise UserError(f"{where}: there is no tokenizer in {place}")
        processor.boxes.tokenizer = read_tokenizer(place)


def _load_detector(head: Any, path: Path) -> None:
    kind = detector_class(head.detector.config)
    weights = read_part(kind, path)
    kept = {key: value for key, value in weights.items() if not key.startswith(head.skipped_weights)}
    load_part(head.detector, kept, path)
