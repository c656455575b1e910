"""Vision encoder of AVG-LLaVA: as many tokens as the question needs (arXiv 2410.02745).

An image is seen whole and in tiles; every crop gives P patch tokens, which the scaler may average to fewer. A router
reads tokens and question and picks the granularity of the image, unless the override ``granularity`` (tokens per
crop) says it. Rows and columns of padding go, a newline token follows every row of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedConfig

from ullava.errors import UserError
from ullava.examples import TokenCount, Views
from ullava.geometry.patches import patch_grid_side
from ullava.modeling.towers.tower_contract import trains
from ullava.modeling.vision.avg_layout import (
    Unpad,
    kernel_of,
    lay_out,
    levels_of,
    plan_canvas,
    plan_layout,
    scale_tokens,
)
from ullava.modeling.vision.avg_passes import RankedCandidates
from ullava.modeling.vision.avg_router import GranularityRouter, choose_words
from ullava.modeling.vision.clip_mlp import build_projector
from ullava.modeling.vision.passes import Passes
from ullava.modeling.vision.strategy import (
    NO_CONTEXT,
    PLAIN,
    EncodeContext,
    ItemNotes,
    VideoInputs,
    VisionInputs,
    VisionOutput,
    VisionPart,
    as_maps,
    refuse_unknown,
    zero_loss_of,
)
from ullava.modeling.vision.tiles import render_tiles, render_whole, whole_view
from ullava.modeling.vision.tower_encoder import TowerVisionEncoder

VIEW = "base"
OVERRIDES = ("granularity",)


def chosen_levels(grid_side: int, wanted: Sequence[int]) -> tuple[int, ...]:
    """The levels of a model, coarsest first; all that the grid has where ``wanted`` is empty.

    Raises UserError for one that the grid has not.
    """
    for level in wanted:
        kernel_of(grid_side, level)
    return tuple(sorted(set(wanted))) or levels_of(grid_side)


def forced_level(overrides: Mapping[str, Any], levels: Sequence[int], usual: int | None) -> int | None:
    """The override ``granularity``, else the model's own; None = the router's choice.

    Raises UserError for anything but one of ``levels``.
    """
    refuse_unknown(overrides, OVERRIDES, "avg")
    level = overrides.get("granularity", usual)
    if level is not None and (isinstance(level, bool) or level not in levels):
        raise UserError(f"granularity has to be one of {', '.join(map(str, levels))}, not {level!r}")
    return level


class AvgPreprocessor:
    """The image stretched to a square of side R, and the tiles of its canvas, R x R each.

    Without an override the number of tokens is open until the router has chosen. A budget takes away the levels that
    would not fit. A video is its frames at one of ``video_levels``, without tiles and newlines.
    """

    view_names: tuple[str, ...] = (VIEW, "tiles", "plan")
    reads_text = True

    def __init__(self, side: int, patch: int, settings: Mapping[str, Any]) -> None:
        self.side = side
        self.grid_side = patch_grid_side(side, patch, 1)
        self.levels = chosen_levels(self.grid_side, settings["levels"])
        self.video_levels = video_levels(self.grid_side, settings)
        self.granularity: int | None = settings["granularity"]
        self.canvases = canvases_of(settings)
        self.unpad: Unpad = settings["unpad"]

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """Base crop, tiles, and ``plan``: width, height, finest level allowed; see VisionPreprocessor."""
        forced = forced_level(notes.overrides, self.levels, self.granularity)
        orig_wh = (image_rgb_u8.shape[1], image_rgb_u8.shape[0])
        plan = plan_canvas(orig_wh, self.side, self.canvases)
        tokens = {level: plan_layout(plan, self.grid_side, level, self.unpad).num_tokens for level in self.levels}
        wanted = self.levels if forced is None else (forced,)
        room = max(tokens.values()) if notes.budget is None else notes.budget
        allowed = tuple(takewhile(lambda level: tokens[level] <= room, wanted)) or wanted[:1]
        tiles = {f"tile_{number}": view for number, view in enumerate(plan.views())}
        return VisionInputs(
            views={
                VIEW: render_whole(image_rgb_u8, self.side),
                "tiles": render_tiles(image_rgb_u8, plan),
                "plan": np.asarray([*orig_wh, allowed[-1]], dtype=np.int64),
            },
            geometry={VIEW: whole_view(orig_wh, self.side), **tiles},
            count=_bounds([tokens[level] for level in allowed]),
            variant="" if allowed == self.levels else f"|granularity {','.join(map(str, allowed))}",
            shrunk=len(allowed) < len(wanted),
        )

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VideoInputs:
        """Every frame stretched to the square; see VisionPreprocessor."""
        forced = forced_level(notes.overrides, self.levels, self.granularity)
        pixels = np.stack([render_whole(frame, self.side) for frame in frames_rgb_u8])
        allowed = self.video_levels if forced is None else (forced,)
        variant = "" if forced is None else f"|granularity {forced}"
        return VideoInputs({VIEW: pixels}, _bounds([level * len(pixels) for level in allowed]), variant)


def _bounds(tokens: Sequence[int]) -> TokenCount:
    return TokenCount(min(tokens), max(tokens))


def floor_of(settings: Mapping[str, Any], levels: Sequence[int]) -> int:
    """The coarsest level for rows that ask for masks or boxes. Raises UserError for one that the model has not.

    (Models saved before there was a floor have none.)
    """
    floor = settings.get("min_level")
    if floor is not None and floor not in levels:
        raise UserError(f"vision.avg.min_level has to be one of {', '.join(map(str, levels))}, not {floor!r}")
    return levels[0] if floor is None else int(floor)


def canvases_of(settings: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """The canvases of a model in tiles (columns, rows). Raises UserError for one that is not two numbers from 1."""
    if not settings["image_grid_pinpoints"]:
        raise UserError("vision.avg.image_grid_pinpoints: an image needs at least one")
    canvases = []
    for canvas in settings["image_grid_pinpoints"]:
        if len(canvas) != 2 or min(canvas) < 1:
            raise UserError(f"vision.avg.image_grid_pinpoints: a canvas is [columns, rows], not {list(canvas)}")
        canvases.append((int(canvas[0]), int(canvas[1])))
    return tuple(canvases)


def video_levels(grid_side: int, settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Levels for videos: the model's own among the ``video_levels`` coarsest of the grid, at least the first."""
    own = chosen_levels(grid_side, settings["levels"])
    coarse = levels_of(grid_side)[: int(settings["video_levels"])]
    return tuple(level for level in own if level in coarse) or own[:1]


class RowEnd(nn.Module):
    """The learned token after every row of tiles. A module, so that wrappers which share weights out gather it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width) / width**0.5)

    def forward(self) -> torch.Tensor:
        """The token [D]."""
        return self.weight.clone()


class Avg(TowerVisionEncoder):
    """States of the tower, a projector, the scaler and the router."""

    choices = OVERRIDES

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        vision_feature_layer: int,
        projector: str,
        width_out: int,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__(config, vision_feature_layer)
        self.side = self.kind.side
        self.grid_side = self.kind.grid_side(vision_feature_layer)
        self.levels = chosen_levels(self.grid_side, settings["levels"])
        self.video_levels = video_levels(self.grid_side, settings)
        self.granularity: int | None = settings["granularity"]
        self.min_level = floor_of(settings, self.levels)
        self.canvases = canvases_of(settings)
        self.unpad: Unpad = settings["unpad"]
        self.projector = build_projector(projector, self.kind.width(vision_feature_layer), width_out)
        self.newline = RowEnd(width_out)
        self.router = GranularityRouter(
            width_out,
            self.levels,
            text_slots=int(settings["text_slots"]),
            heads=int(settings["heads"]),
            dropout=float(settings["dropout"]),
            axis=settings["attention_axis"],
        )

    # ------------------------------------------------------------ images
    def encode(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """Base [I, 3, R, R], tiles [m_i, 3, R, R], plans [I, 3] -> tokens of every place of the text.

        Forced, they are those of every distinct image.
        """
        forced = forced_level(context.overrides, self.levels, self.granularity)
        states = self._seen(views)
        crops, maps = self._project(states), tuple(as_maps(entry[:1])[0] for entry in states)
        plans = [tuple(int(value) for value in plan) for plan in views["plan"]]
        if forced is not None:
            pieces = [self._tokens(crops[item], plan, forced) for item, plan in enumerate(plans)]
            told = {"granularity": (forced,) * len(pieces)}
            return _output(pieces, maps, per_place=False, idle=self._idle_router(), told=told)
        allowed = [[level for level in self.levels if level <= plan[2]] for plan in plans]
        logits = self._logits(crops, context)
        picks = self._picks(logits, [allowed[item] for item in context.places], context)
        pieces = [
            self._tokens(crops[item], plans[item], level) * weight
            for (level, weight), item in zip(picks, context.places, strict=True)
        ]
        return _output(pieces, maps, per_place=True, idle=None, told=_told(logits, picks, self.levels))

    def router_logits(self, views: Views, context: EncodeContext) -> torch.Tensor:
        """Scores [places, L] of the levels for every place of the text, to be taught (ullava.losses.ranking)."""
        return self._logits(self._project(self._seen(views)), context)

    def _logits(self, crops: Sequence[torch.Tensor], context: EncodeContext) -> torch.Tensor:
        return self._scores(crops, [seen[0] for seen in crops], context)

    def _scores(
        self, crops: Sequence[torch.Tensor], bases: Sequence[torch.Tensor], context: EncodeContext
    ) -> torch.Tensor:
        """Scores [places, L]; the words near to the item's base tokens [P, D] are read with its crops [n, P, D]."""
        if not context.places:
            raise UserError("vision strategy avg chooses by the question: it needs one, or the override granularity")
        slots = self.router.text_slots
        return torch.stack(
            [
                self.router(crops[item], choose_words(bases[item], context.words_of(place), slots))
                for place, item in enumerate(context.places)
            ]
        )

    def _picks(
        self, logits: torch.Tensor, allowed: Sequence[Sequence[int]], context: EncodeContext
    ) -> list[tuple[int, torch.Tensor]]:
        """``_pick`` for every place among its ``allowed``; where masks or boxes are asked for, from the floor on.

        The finest of a place whose levels all lie below the floor.
        """
        picks = []
        for place, (row, levels) in enumerate(zip(logits, allowed, strict=True)):
            if context.is_grounded(place):
                levels = [level for level in levels if level >= self.min_level] or [max(levels)]
            picks.append(self._pick(row, levels))
        return picks

    def _pick(self, logits: torch.Tensor, allowed: Sequence[int]) -> tuple[int, torch.Tensor]:
        """The level with the best score among those allowed, and a one through which its gradient reaches the router.

        (The one-hot choice passes the gradient of the softmax on.)
        """
        open_levels = torch.tensor([level in allowed for level in self.levels], device=logits.device)
        shares = logits.float().masked_fill(~open_levels, float("-inf")).softmax(dim=0)
        best = int(shares.argmax())
        one = (shares[best] - shares[best].detach()) + 1.0
        return self.levels[best], one.to(logits.dtype)

    def _seen(self, views: Views) -> list[torch.Tensor]:
        """States [1 + m_i, P, W] of each image's crops, the whole first; of ``cached_features`` where those are."""
        return list(views["states"]) if "states" in views else self._states(views)

    def _project(self, states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tokens [1 + m_i, P, D] of each image's crops."""
        return list(self.projector(torch.cat(list(states))).split([len(entry) for entry in states]))

    def _states(self, views: Views) -> list[torch.Tensor]:
        """States of the tower [1 + m_i, P, W] of each image's crops, or of each video's frames [T, P, W]."""
        entries = list(views[VIEW])
        if "tiles" in views:
            entries = [torch.cat([base[None], tiles]) for base, tiles in zip(entries, views["tiles"], strict=True)]
        states = self.patch_states(self.normalize(torch.cat(entries)))
        return list(states.split([len(entry) for entry in entries]))

    def cached_features(self, views: Views) -> Mapping[str, Any]:
        """The tower's states, where it does not train: all levels are made of the same."""
        return {} if trains(self.tower) else {"states": self._states(views)}

    def _tokens(self, crops: torch.Tensor, plan: Sequence[int], level: int) -> torch.Tensor:
        canvas = plan_canvas((plan[0], plan[1]), self.side, self.canvases)
        layout = plan_layout(canvas, self.grid_side, level, self.unpad)
        return lay_out(scale_tokens(crops, level), layout, self.newline())

    # ------------------------------------------------------------ videos
    def encode_video(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """Frames [V, T, 3, R, R] -> one level for the whole clip, frame after frame.

        The router chooses among ``video_levels`` and takes the frames for crops; its words are those near to the mean
        of the frames.
        """
        forced = forced_level(context.overrides, self.levels, self.granularity)
        states = self.projector(torch.stack(list(views["states"]) if "states" in views else self._states(views)))
        if forced is not None:
            pieces = [scale_tokens(frames, forced).flatten(0, 1) for frames in states]
            told = {"granularity": (forced,) * len(pieces)}
            return _output(pieces, (), per_place=False, idle=self._idle_router(), told=told)
        logits = self._scores(list(states), [frames.mean(dim=0) for frames in states], context)
        picks = self._picks(logits, [self.video_levels] * len(logits), context)
        pieces = [
            scale_tokens(states[item], level).flatten(0, 1) * weight
            for (level, weight), item in zip(picks, context.places, strict=True)
        ]
        told = _told(logits, picks, self.levels)
        return _output(pieces, (), per_place=True, idle=zero_loss_of(self.newline), told=told)

    def _idle_router(self) -> torch.Tensor:
        return zero_loss_of(self.router, self.newline)

    # ------------------------------------------------------------ the contract's other parts
    def parts(self) -> tuple[VisionPart, ...]:
        """The router counts as a tower: the published stages before its own leave it as it is."""
        return (
            VisionPart("vision tower", ("tower.",), "tower"),
            VisionPart("vision router", ("router.",), "tower"),
            VisionPart("vision projector", ("",), "projector"),
        )

    def init_new_weights(self, pretrained: frozenset[str]) -> None:
        """The published start of the router; the tower's table."""
        super().init_new_weights(pretrained)
        self.router.start()

    def candidates(self) -> tuple[Mapping[str, Any], ...]:
        """Every granularity, coarsest first."""
        return tuple({"granularity": level} for level in self.levels)

    def passes(self, kind: str = "one") -> Passes:
        """Also to ``rank`` the granularities for the router; see VisionStrategy."""
        return RankedCandidates(self.candidates()) if kind == "rank" and len(self.levels) > 1 else super().passes(kind)


def _output(
    pieces: Sequence[torch.Tensor],
    maps: tuple[torch.Tensor, ...],
    *,
    per_place: bool,
    idle: torch.Tensor | None,
    told: Mapping[str, Any],
) -> VisionOutput:
    counts = tuple(len(piece) for piece in pieces)
    return VisionOutput(torch.cat(list(pieces)), counts, per_place=per_place, maps=maps, idle=idle, diagnostics=told)


def _told(logits: torch.Tensor, picks: Sequence[tuple[int, torch.Tensor]], levels: Sequence[int]) -> dict[str, Any]:
    """What the router chose at every place: tokens per crop, and its probability for each of the levels."""
    probabilities = logits.detach().float().softmax(dim=-1)
    return {"granularity": tuple(level for level, _ in picks), "levels": tuple(levels), "probability": probabilities}
