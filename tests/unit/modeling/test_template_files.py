"""A conversation format of the user's own: from model.yaml into the model, its saved folder and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from ullava.cli.main import main
from ullava.config.load import load_config
from ullava.config.schema import ModelConfig, TextConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.modeling.construction.auto import register
from ullava.modeling.construction.build import build_model
from ullava.modeling.loading.template_files import chat_template_of
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.processing.tokenizing import tokenize
from ullava.structures import Turn
from ullava.text.conversation import CHAT_TEMPLATES, to_messages, turn_end_ids

ROOT = Path(__file__).parents[3]
DOCUMENTED = re.findall(r"```jinja\n(.*?)```", (ROOT / "docs/conversations.md").read_text(encoding="utf-8"), re.DOTALL)
SIGNS = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS = [Turn("<image>What is it?", "A cup.")]


@pytest.fixture
def model_yaml(tmp_path: Path) -> Path:
    """The quick model with the format of the docs, whose sign is one that its tokenizer has."""
    text = (ROOT / "models/tiny_quick/model.yaml").read_text(encoding="utf-8")
    text = text.replace("../tiny/tokenizer", str(ROOT / "models/tiny/tokenizer")).replace("vicuna_v1", "mine.jinja")
    (tmp_path / "mine.jinja").write_text(DOCUMENTED[0].replace("<|end|>", "[/tag]"), encoding="utf-8")
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_format_of_the_docs_is_trained_with_saved_and_loaded(model_yaml: Path, tmp_path: Path) -> None:
    model, processor = build_model(load_config(ModelConfig, model_yaml), tmp_path)
    end = processor.tokenizer.convert_tokens_to_ids("[/tag]")
    assert end in model.generation_config.eos_token_id
    ids, labels = tokenize(processor.tokenizer, processor.chat_template, TURNS, system="", prompt_only=False)
    supervised = processor.tokenizer.decode([number for number in labels.tolist() if number >= 0])
    assert supervised.replace(" ", "") == "Acup.[/tag]" and ids.tolist()[-1] == end
    register()
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    (tmp_path / "mine.jinja").unlink()
    again = UllavaProcessor.from_pretrained(str(tmp_path / "saved"))
    assert again.chat_template == processor.chat_template
    assert end in turn_end_ids(again.tokenizer, again.chat_template)


def test_it_is_checked(model_yaml: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["check", str(model_yaml)]) == 0
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}\n{{ m }")
    assert main(["check", str(model_yaml)]) == 2
    line = next(n for n, text in enumerate(model_yaml.read_text().splitlines(), 1) if "mine.jinja" in text)
    assert re.search(rf"model\.yaml:{line}: text\.template: .*mine\.jinja:2: ", capsys.readouterr().err)


def test_a_sign_that_the_tokenizer_lacks_is_refused(model_yaml: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(DOCUMENTED[0])
    with pytest.raises(UserError, match=r"of your own ends an answer with <\|end\|>, which the tokenizer does not"):
        build_model(load_config(ModelConfig, model_yaml), tmp_path)


WORDS = '{% include "parts/words.jinja" %}'
EACH = "{% for m in messages %}{% generation %}{{ words(m['content']) }}{% endgeneration %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such"),
        ("", "it leaves out what is asked or answered"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "writes 0 <image_patch> for an image"),
        (WORDS + "{% for m in messages %}{{ words(m['content']) }}{% endfor %}", "to stand in {% generation %}"),
        (WORDS + EACH, "nothing of questions, have to stand in {% generation %}"),
        ('{% include "other.jinja" %}', "cannot be used"),
        ("{{ nothing.at.all }}", "cannot be used"),
        ("{{ messages | unknown }}", "No filter named 'unknown'"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_what_cannot_be_a_format_is_told(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / "mine.jinja").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=rf"mine\.jinja.*{re.escape(message)}"):
        chat_template_of(TextConfig(template="mine.jinja"), tmp_path, Site(tmp_path / "model.yaml", "text"))


@pytest.mark.parametrize("name", sorted(set(CHAT_TEMPLATES) - {"conv_simple", "plain"}))
def test_a_changed_copy_of_a_format_of_ours_is_a_format(tmp_path: Path, name: str) -> None:
    """The file itself, as it stands. (``conv_simple`` marks signs of questions, ``plain`` writes no question.)"""
    ours = (ROOT / f"ullava/text/templates/{name}.jinja").read_text(encoding="utf-8")
    (tmp_path / "mine.jinja").write_text(f"{{# mine #}}{ours}", encoding="utf-8")
    template = chat_template_of(TextConfig(template="mine.jinja"), tmp_path, Site(tmp_path / "model.yaml", "text"))

    def rendered(text: str) -> str:
        made = render_jinja_template([to_messages(TURNS, "Be brief.")], chat_template=text, **SIGNS)
        return str(made[0][0])

    assert rendered(template) == rendered(CHAT_TEMPLATES[name])


def test_a_misspelt_format_is_told(model_yaml: Path, capsys: Any) -> None:
    model_yaml.write_text(model_yaml.read_text().replace("mine.jinja", "vicuna_v2"))
    assert main(["check", str(model_yaml)]) == 2
    assert re.search(r"model\.yaml:\d+: text: template: no format 'vicuna_v2'; did you mean", capsys.readouterr().err)
