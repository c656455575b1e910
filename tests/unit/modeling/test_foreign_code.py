"""A folder that brings Python of its own: it is refused in one line at every door, whoever answers at the terminal."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import CLIPVisionConfig, GroundingDinoConfig, LlamaConfig, SamConfig

import ullava
from ullava.config.load import load_config
from ullava.config.schema import TrainRecipe
from ullava.errors import UserError
from ullava.training.loop.init import start_model

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]
AUTO = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
CLASSES = dict.fromkeys(AUTO, "evil.Evil")


def with_code(folder: Path, file: str = "config.json") -> Path:
    """Give ``folder`` a module that leaves a mark when it is imported, and a file that names its classes."""
    mark = folder.parent / "it_ran"
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nfrom transformers import PretrainedConfig\n"
        "class Evil(PretrainedConfig):\n    model_type = 'evil'\n"
    )
    path = folder / file
    table = json.loads(path.read_text()) if path.is_file() else {}
    classes = [CLASSES["AutoTokenizer"], None] if file == "tokenizer_config.json" else None
    path.write_text(json.dumps({**table, "auto_map": {"AutoTokenizer": classes} if classes else CLASSES}))
    return folder


@pytest.fixture
def refused(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command line with a terminal that says yes to everything; it has to end with the one line."""

    def run(*line: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
        code, _, err = command(*line)
        assert code == 2, err
        said = [text for text in err.splitlines() if text.startswith("error: ")]
        assert said and all("wants to run its own Python, which ullava never does" in text for text in said), err
        assert "Traceback" not in err and not list(tmp_path.rglob("it_ran"))
        return said[0]

    return run


@pytest.fixture
def asked(tmp_path: Path) -> tuple[str, ...]:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    out = str(tmp_path / "out")
    return ("--image", str(tmp_path / "a.png"), "--prompt", "Hello.", "--device", "cpu", "--out", out)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "models" / "tiny" / "weights", tmp_path / "model"))


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"]
)  # fmt: skip
def test_a_saved_model(refused: Callable[..., str], model: Path, asked: tuple[str, ...], file: str) -> None:
    with_code(model, file)
    assert f"{model / file}: auto_map" in refused("predict", "--model", str(model), *asked)


def test_a_saved_model_of_an_unknown_type(refused: Callable[..., str], tmp_path: Path, asked: tuple[str, ...]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "evil"}')
    (folder / "model.safetensors").write_bytes(b"")
    refused("predict", "--model", str(with_code(folder)), *asked)


def test_evaluation_and_training_start_from_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_code(model)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    with pytest.raises(UserError, match="never does"):
        ullava.load(model, device="cpu")
    path = ROOT / "configs" / "train" / "ci.yaml"
    with pytest.raises(UserError, match="never does"):
        start_model(load_config(TrainRecipe, path, [f"init={model}"]), path)
    assert not list(tmp_path.rglob("it_ran"))


def part_of(folder: Path, config: Any) -> Path:
    folder.mkdir()
    config.save_pretrained(folder)
    return with_code(folder)


PARTS: dict[str, tuple[Any, str]] = {
    "language": (LlamaConfig(), "language={path: PART, config: {}}"),
    "tower": (CLIPVisionConfig(), "vision.tower={path: PART, config: {}}"),
    "sam": (SamConfig(), "mask.sam={path: PART, config: {}}"),
    "detector": (GroundingDinoConfig(), "box={kind: grounding_dino_query, detector: {path: PART}}"),
    "pyramid": (LlamaConfig(), "vision.mg.pyramid={path: PART}"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_model(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    config, override = PARTS[name]
    part = part_of(tmp_path / name, config)
    refused("show", "tiny_mg" if name == "pyramid" else "tiny", "--sizes", override.replace("PART", str(part)))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_tokenizer(refused: Callable[..., str], tmp_path: Path, file: str) -> None:
    words = Path(shutil.copytree(ROOT / "models" / "tiny" / "tokenizer", tmp_path / "words"))
    (words / "config.json").write_text('{"model_type": "llama"}')
    refused("show", "tiny", "--sizes", f"tokenizer={with_code(words, file)}")


def test_a_detector_of_boxes(refused: Callable[..., str], tmp_path: Path, asked: tuple[str, ...]) -> None:
    part = part_of(tmp_path / "detector", GroundingDinoConfig())
    refused("predict", "--model", "tiny", *asked, "--detector", str(part), "--classes", "cup")


def test_there_is_one_door() -> None:
    """What reads transformers' files is called in one module; beside it stand peft's reader and our own classes."""
    allowed = {
        "registration.py",
        "modeling/loading/pretrained.py",
        "modeling/processing/processor.py",
        "modeling/loading/adapters.py",
    }
    calls = re.compile(r"\.from_pretrained\(|trust_remote_code=True|weights_only=False")
    package = Path(ullava.__file__).parent
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if calls.search(path.read_text())}
    assert found <= allowed and len(list(package.rglob("*.py"))) > 200
