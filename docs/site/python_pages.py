"""The page of the Python API: which names it explains. mkdocstrings reads the docstrings from the source."""

from __future__ import annotations

PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Load and ask": (
        "A model answers one question, several turns, or word by word.",
        ("ullava.load", "ullava.inference.predictor.Predictor", "ullava.inference.chat.Chat"),
    ),
    "Answers": (
        "What comes back, in pixels of the image that was given.",
        ("ullava.structures.Answer", "ullava.structures.GroundedObject"),
    ),
    "Pictures of answers, edits by masks": (
        "Images are uint8 arrays [H, W, 3], masks bool [H, W].",
        (
            "ullava.inference.overlay.draw_overlay",
            "ullava.inference.editing.cut_out",
            "ullava.inference.editing.blur",
            "ullava.inference.editing.replace_background",
            "ullava.inference.editing.erase",
        ),
    ),
    "Configurations": (
        "YAML files as frozen dataclasses; the keys are [explained by file](config/README.md).",
        (
            "ullava.config.load.load_config",
            "ullava.config.load.parse_text",
            "ullava.config.load.dump_config",
            "ullava.config.json_schema.json_schema",
            "ullava.resources.names",
            "ullava.resources.find",
        ),
    ),
    "Errors": (
        "All that a user can mend is one of these; every line of `problems` says what and where.",
        ("ullava.errors.UserError", "ullava.errors.ConfigError", "ullava.errors.DataError"),
    ),
}
"""Heading -> a sentence, and the dotted names below it."""


def python_pages() -> dict[str, str]:
    """Return the path of the page on the site -> its Markdown."""
    parts = [
        "# Python\n\nThe public names. `ullava.load` is all that most programs import; what is not on this page may "
        "change from one release to the next.\n"
    ]
    for heading, (sentence, names) in PARTS.items():
        parts.append(f"## {heading}\n\n{sentence}\n")
        parts.extend(f"::: {name}\n" for name in names)
    return {"reference/python.md": "\n".join(parts)}
