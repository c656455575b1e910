"""SliME's vision encoder: a gated global view, tiles pressed by a resampler, and of their tokens those the question is
near.

SliME's paper and code (arXiv 2406.08487). Tokens of an image: the global view's, a separator, the kept local ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from ullava.config.vision import SlimeConfig
from ullava.errors import UserError
from ullava.examples import TokenCount, Views
from ullava.modeling.vision.slime_mixture import GatedMixture
from ullava.modeling.vision.slime_resampler import Resampler
from ullava.modeling.vision.slime_selection import merge_tiles, reduce_cosines, select_top_p, word_cosines
from ullava.modeling.vision.slime_tiles import MIN_WANTED, plan_tiles
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
    stacked,
)
from ullava.modeling.vision.tiles import render_tiles, render_whole, whole_view
from ullava.modeling.vision.tower_encoder import TowerVisionEncoder

OVERRIDES = ("top_p", "max_tiles")
SCORE_NOISE = 0.1
"""Standard deviation, in units of the temperature, of what is added to the scores in training."""


class SlimePreprocessor:
    """The whole image as a square of side R, and the tiles of its grid; a video gives its frames as tiles."""

    view_names: tuple[str, ...] = ("base", "tiles", "grid")

    def __init__(self, side: int, patch: int, settings: SlimeConfig) -> None:
        self.side = side
        self.settings = settings
        self.whole_tokens = (side // patch) ** 2
        self.tile_tokens = settings.local_side**2
        self.reads_text = settings.view != "global"

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """See VisionPreprocessor; where the budget is short, the image is cut into fewer tiles."""
        refuse_unknown(notes.overrides, OVERRIDES, "slime")
        size = (image_rgb_u8.shape[1], image_rgb_u8.shape[0])
        most = int(notes.overrides.get("max_tiles", self.settings.max_tiles))
        plan = wanted = plan_tiles(size, self.side, most)
        top_p = top_p_of(notes.overrides, self.settings)
        while notes.budget is not None and plan.num_tiles > MIN_WANTED:
            if self._count(plan.num_tiles, top_p).high <= notes.budget:
                break
            plan = plan_tiles(size, self.side, plan.num_tiles - 1)
        views: dict[str, NDArray[Any]] = {"base": render_whole(image_rgb_u8, self.side)}
        geometry = {"base": whole_view(size, self.side)}
        if self.settings.view != "global":
            views |= {"tiles": render_tiles(image_rgb_u8, plan), "grid": np.asarray(plan.grid_cr, np.int64)}
            geometry |= {f"tiles.{number}": view for number, view in enumerate(plan.views())}
        count = self._count(plan.num_tiles, top_p)
        return VisionInputs(
            views,
            geometry,
            count,
            variant=f"|{plan.grid_cr[0]}x{plan.grid_cr[1]}",
            shrunk=plan.grid_cr != wanted.grid_cr,
        )

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VideoInputs:
        """Each frame stretched to the square; see VisionPreprocessor."""
        refuse_unknown(notes.overrides, OVERRIDES, "slime")
        pixels = np.stack([render_whole(frame, self.side) for frame in frames_rgb_u8])
        return VideoInputs({"base": pixels}, self._count(len(pixels), top_p_of(notes.overrides, self.settings)))

    def _count(self, tiles: int, top_p: float) -> TokenCount:
        """Bounds of the tokens of an item with so many tiles; exact where nothing is selected."""
        view = self.settings.view
        if view == "global":
            return TokenCount(self.whole_tokens, self.whole_tokens)
        fixed = self.whole_tokens + 1 if view == "both" else 0
        most = fixed + tiles * self.tile_tokens
        return TokenCount(most if top_p >= 1.0 else fixed + 1, most)


def slime_settings(table: Mapping[str, Any]) -> SlimeConfig:
    """The settings as ``UllavaConfig.vision_settings`` keeps them; what an older model does not know, as it was."""
    return SlimeConfig(**{entry.name: table[entry.name] for entry in fields(SlimeConfig) if entry.name in table})


def top_p_of(overrides: Mapping[str, Any], settings: SlimeConfig) -> float:
    """The share of the local tokens' probability that is kept. Raises UserError for one outside 0 to 1."""
    top_p = float(overrides.get("top_p", settings.top_p))
    if not 0.0 <= top_p <= 1.0:
        raise UserError(f"top_p is {top_p}: a share lies between 0 and 1")
    return top_p


@dataclass(frozen=True, slots=True)
class _Item:
    """Tokens of one image or video before the selection: [G, D] of the whole (or none), [n, D] of its tiles."""

    whole: torch.Tensor
    local: torch.Tensor


class Slime(TowerVisionEncoder):
    """``mixture`` for the tower's states of the whole, ``local`` (resampler B) and the mixture's MLP for the tiles'."""

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        vision_feature_layer: int,
        settings: SlimeConfig,
        separator_id: int,
        width_out: int,
    ) -> None:
        super().__init__(config, vision_feature_layer)
        side, width = self.kind.grid_side(vision_feature_layer), self.kind.width(vision_feature_layer)
        self.settings = settings
        self.separator_id = separator_id
        self.mixture = GatedMixture(side, width, settings.heads, width_out)
        self.local = Resampler(settings.local_side, width, settings.heads)

    def encode(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """``base`` [I, 3, R, R], ``tiles`` [m, 3, R, R] and ``grid`` (columns, rows) of each item -> its tokens."""
        refuse_unknown(context.overrides, OVERRIDES, "slime")
        whole = stacked(views["base"])
        if self.settings.view == "global":
            states = self._states(whole)
            return replace(self.tokens_of(states, [], [], context), maps=as_maps(states))
        tiles = list(views["tiles"])
        grids = [(int(grid[0]), int(grid[1])) for grid in views["grid"]]
        if self.settings.view == "local":
            states = self._states(torch.cat(tiles))
            return self.tokens_of(states[:0], list(states.split([len(part) for part in tiles])), grids, context)
        states = self._states(torch.cat([whole, *tiles]))
        parts = states.split([len(whole), *(len(part) for part in tiles)])
        return replace(self.tokens_of(parts[0], list(parts[1:]), grids, context), maps=as_maps(parts[0]))

    @property
    def map_width(self) -> int:
        """See VisionStrategy; with ``view: local`` the whole image is not seen."""
        if self.settings.view == "local":
            raise UserError("vision.regions: with vision.slime.view local no map of the whole image is made")
        return super().map_width

    def encode_video(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """``base`` [V, T, 3, R, R]: the mean of the frames' states is the whole, each frame is a tile."""
        refuse_unknown(context.overrides, OVERRIDES, "slime")
        clips = stacked(views["base"])
        states = self._states(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        whole = states.mean(dim=1) if self.settings.view != "local" else states[:0, 0]
        frames = list(states) if self.settings.view != "global" else []
        return self.tokens_of(whole, frames, [(1, clips.shape[1])] * len(frames), context)

    def tokens_of(
        self,
        whole: torch.Tensor,
        tiles: Sequence[torch.Tensor],
        grids: Sequence[tuple[int, int]],
        context: EncodeContext,
    ) -> VisionOutput:
        """Tokens from the tower's states: ``whole`` [I, P, W] and, for each item, those of its tiles [m, P, W].

        Either may be empty (``view`` local, global). Where tokens are selected the counts are those of the places.
        """
        top_p = top_p_of(context.overrides, self.settings)
        floor = 0.0 if "top_p" in context.overrides else self.settings.min_top_p
        items, told = self._project(whole, tiles, grids, context)
        places: Sequence[int] = range(len(items))
        if tiles and top_p < 1.0:
            places = context.places
            shares = [top_p if not context.is_grounded(n) else max(top_p, floor) for n in range(len(places))]
            kept = [self._select(items[item].local, n, shares[n], context) for n, item in enumerate(places)]
        else:
            kept = [torch.arange(len(item.local), device=item.local.device) for item in items]
        rows = [self._row(items[item], part) for item, part in zip(places, kept, strict=True)]
        told["kept"] = kept
        told["kept_share"] = [
            len(part) / max(len(items[item].local), 1) for item, part in zip(places, kept, strict=True)
        ]
        return VisionOutput(
            torch.cat([tokens for tokens, _ in rows]),
            tuple(len(tokens) for tokens, _ in rows),
            per_place=places is context.places,
            literal_ids=torch.cat([literal for _, literal in rows]),
            diagnostics=told,
        )

    def _project(
        self,
        whole: torch.Tensor,
        tiles: Sequence[torch.Tensor],
        grids: Sequence[tuple[int, int]],
        context: EncodeContext,
    ) -> tuple[list[_Item], dict[str, Any]]:
        """States -> tokens of every item, and what is told of them: ``grid`` of each, ``gate`` (share of expert 1)."""
        told: dict[str, Any] = {"grid": list(grids)}
        wholes: list[torch.Tensor] = []
        if len(whole):
            noise = _normal((*whole.shape[:2], 2), whole, context) if self.training else None
            tokens, shares = self.mixture(whole, self.settings.gate, noise=noise, scale=self.settings.noise)
            wholes = list(tokens)
            if shares is not None:
                told["gate"] = shares[..., 1].detach().mean()
        if not tiles:
            return [_Item(tokens, tokens[:0]) for tokens in wholes], told
        pressed = self.mixture.projection(self.local(torch.cat(list(tiles)))).split([len(part) for part in tiles])
        merged = [merge_tiles(part, grid) for part, grid in zip(pressed, grids, strict=True)]
        if not len(whole):
            return [_Item(tokens[:0], tokens) for tokens in merged], told
        return [_Item(*pair) for pair in zip(wholes, merged, strict=True)], told

    def _select(self, local: torch.Tensor, place: int, top_p: float, context: EncodeContext) -> torch.Tensor:
        """Which of the local tokens [n, D] the place of the text gets."""
        scores = reduce_cosines(word_cosines(local, context.words_of(place)), self.settings.reduce)
        if self.training:
            scores = scores + SCORE_NOISE * self.settings.temperature * _normal(scores.shape, scores, context)
        return select_top_p(scores, top_p, self.settings.temperature)

    def _row(self, item: _Item, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [N, D] of one place and the ids of words among them [N]."""
        local = item.local[kept]
        parts = [part for part in (item.whole, local) if len(part)]
        if len(parts) == 2:
            parts.insert(1, local.new_zeros(1, local.shape[-1]))
        tokens = torch.cat([part.to(parts[0].dtype) for part in parts])
        literal = torch.full((len(tokens),), -1, dtype=torch.long, device=tokens.device)
        if len(parts) == 3:
            literal[len(item.whole)] = self.separator_id
        return tokens, literal

    def _states(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.patch_states(self.normalize(pixels))

    def parts(self) -> tuple[VisionPart, ...]:
        """Tower, the shared MLP, the gate and both resamplers."""
        return (
            VisionPart("vision tower", ("tower.",), "tower"),
            VisionPart("vision projector", ("mixture.projection.",), "projector"),
            VisionPart("vision gate", ("mixture.w_gate", "mixture.w_noise"), "projector"),
            VisionPart("vision resampler a", ("mixture.attn.",), "projector"),
            VisionPart("vision resampler b", ("local.",), "projector"),
        )

    def unread(self) -> tuple[str, ...]:
        """The tower's upper layers, and what the settings leave out."""
        names = list(super().unread())
        settings = self.settings
        if settings.view == "global":
            names.append("local.")
        if settings.view == "local" or settings.gate == "mlp":
            names.append("mixture.attn.")
        if settings.view == "local" or settings.gate != "learned":
            names += ["mixture.w_gate", "mixture.w_noise"]
        elif settings.noise == "gate":
            names.append("mixture.w_noise")
        return tuple(names)


def _normal(shape: Sequence[int], like: torch.Tensor, context: EncodeContext) -> torch.Tensor:
    """Standard normal numbers in float32 on the device of ``like``, from the generator of the context."""
    generator = context.generator
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=device).to(like.device)
