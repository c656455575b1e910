"""A node for ComfyUI: an image and a sentence in, a mask and the model's words out.

A file ``custom_nodes/ullava.py`` of one line makes it known::

    from ullava.plugins.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

ComfyUI's images are float [B, H, W, C] in [0, 1], its masks float [B, H, W]. Nothing of ComfyUI is imported.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ullava.errors import UserError
from ullava.structures import ImageArray
from ullava.text.tokens import strip_grounding
from ullava.text.wording import question_of

if TYPE_CHECKING:
    import torch

_MODELS_KEPT = 1


class UllavaSegment:
    """The node. The model is kept until another one is asked for."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MASK", "STRING")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("mask", "text")
    FUNCTION: ClassVar[str] = "segment"
    CATEGORY: ClassVar[str] = "ullava"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802  # ComfyUI's name
        """Return the inputs as ComfyUI describes them."""
        return {
            "required": {
                "image": ("IMAGE",),
                "text": ("STRING", {"default": "red circle", "multiline": True}),
                "model": ("STRING", {"default": "tiny"}),
            },
            "optional": {
                "threshold": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01}),
                "max_new_tokens": ("INT", {"default": 128, "min": 1, "max": 4096}),
                "device": ("STRING", {"default": "auto"}),
            },
        }

    def segment(
        self,
        image: torch.Tensor,
        text: str,
        model: str = "tiny",
        threshold: float = 0.0,
        max_new_tokens: int = 128,
        device: str = "auto",
    ) -> tuple[torch.Tensor, str]:
        """Return the union of the masks [B, H, W] of things whose score is ``threshold`` or more, and the words.

        ``image``: float [B, H, W, C], C of 1, 3 or 4 (what is more than three is left out); ``text``: a name, or a
        sentence, which is asked as it stands. The words of several images are lines.
        Raises UserError: another shape or range, no text, no such model.
        """
        import torch

        pixels = pixels_of(image)
        if not text.strip():
            raise UserError("text says nothing to look for")
        predictor = _loaded(model, device)
        question = question_of(text, "segmentation")
        masks, words = [], []
        for one in pixels:
            answer = predictor.answer(one, question, max_new_tokens=max_new_tokens)
            united = np.zeros(one.shape[:2], np.float32)
            for thing in answer.objects:
                if thing.mask is not None and thing.score >= threshold:
                    united[thing.mask] = 1.0
            masks.append(united)
            words.append(strip_grounding(answer.text).strip())
        return torch.from_numpy(np.stack(masks)), "\n".join(words)


def pixels_of(image: torch.Tensor) -> list[ImageArray]:
    """Return images float [B, H, W, C] as uint8 [H, W, 3] each. Raises UserError for another shape or range."""
    given = image.detach().float().cpu().numpy()
    if given.ndim != 4 or given.shape[3] not in (1, 3, 4) or 0 in given.shape:
        raise UserError(f"image: expected float [B, H, W, 1, 3 or 4], not {list(given.shape)}")
    if not np.isfinite(given).all() or given.min() < 0 or given.max() > 1:
        raise UserError("image: expected values from 0 to 1")
    colors = np.repeat(given, 3, axis=3) if given.shape[3] == 1 else given[..., :3]
    return list(np.rint(colors * 255).astype(np.uint8))


@lru_cache(maxsize=_MODELS_KEPT)
def _loaded(model: str, device: str) -> Any:
    from ullava.inference.load import load

    return load(model, device=device)


NODE_CLASS_MAPPINGS = {"UllavaSegment": UllavaSegment}
NODE_DISPLAY_NAME_MAPPINGS = {"UllavaSegment": "Segment by a sentence (ullava)"}
