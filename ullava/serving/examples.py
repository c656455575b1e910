"""Requests that run as they stand, for the OpenAPI page and ``docs/serving.md``."""

from __future__ import annotations

from typing import Any

CIRCLE_PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAGAAAABgAQMAAADYVuV7AAAABlBMVEWAgIDcHh5NtWVWAAAApElEQVR42u2TPQ7CMAyFvziVYOQI"
    "5SSEG3KkHKVHyAgSqhlihyJaZUFiqSUPz+/5L3Jgt/9bBEBDbpGDljd90RkAAUiERgRVzc4IMDoYgJODozli0YGFXlppNwES1EYR"
    "yAAhr8iWoM6V6MgqHnuy34L6gFNPpmDrbsuib3k1JmOJXzkT1lmAAjwd3M0RixYHs+XZUSTOrXS2+T4uRAAe3PZftGYvIY4h6S4C"
    "CysAAAAASUVORK5CYII="
)  # fmt: skip
"""A red circle on gray, 96 x 96."""

PREDICTION: dict[str, Any] = {"image": {"url": CIRCLE_PNG}, "query": "the red circle", "task": "segmentation"}
CHAT: dict[str, Any] = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": CIRCLE_PNG, "detail": "high"}},
                {"type": "text", "text": "Segment the red circle."},
            ],
        }
    ],
    "n": 1,
    "max_completion_tokens": 64,
}
ANYLABELING: dict[str, Any] = {"model": None, "image": CIRCLE_PNG, "params": {"text_prompt": "the red circle"}}
OSAM: dict[str, Any] = {"image": CIRCLE_PNG.partition(",")[2], "prompt": {"texts": ["the red circle"]}}
