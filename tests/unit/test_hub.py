"""Ids of the Hugging Face Hub wherever a model or a part is named, tested without a network."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from tests.hub_cache import COMMIT, offline_cache, put_in_cache
from tests.unit.modeling.conftest import SMALL, build_small
from transformers import CLIPVisionConfig, CLIPVisionModel, SamConfig, SamModel

from ullava import hub
from ullava.config.load import load_config, parse_text
from ullava.config.schema import HeadsConfig, ModelConfig, TrainRecipe
from ullava.config.site import Site
from ullava.errors import ConfigError, HubUnreachableError, UserError, WeightsError
from ullava.inference.load import names_saved_model, weights_folder
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.fresh_heads import build_fresh_heads
from ullava.training.loop.init import start_model

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[2]
HEADS = Site(Path("recipe.yaml"), "reinit_heads")
TINY = ROOT / "models" / "tiny" / "weights"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    with offline_cache(tmp_path / "cache") as folder:
        folder.mkdir()
        yield folder


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("org/name", True), ("org/name@v1.0", True), ("org/name@refs/pr/3", True), ("HuggingFaceTB/SmolLM2-135M", True),
        ("name", False), ("a/b/c", False), ("../model_zoo/x", False), ("./x", False), ("/abs/x", False), ("~/x", False),
        ("org/model.yaml", False), ("org/", False), ("", False), ("org/na me", False), ("models/tinny", False),
    ],
)  # fmt: skip
def test_what_is_an_id(name: str, is_id: bool) -> None:
    assert hub.is_hub_id(name, ROOT) is is_id, "models/ is a folder here, so models/tinny is a misspelt path"


def test_a_folder_is_preferred_and_a_misspelt_one_is_named(cache: Path, tmp_path: Path) -> None:
    put_in_cache(cache, "org/name", TINY)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub.find_folder("org/name", tmp_path, "x") == tmp_path / "org" / "name"
    with pytest.raises(ConfigError, match=r"x: no such file or folder: .*org/nam; did you mean 'name'\?"):
        hub.find_folder("org/nam", tmp_path, "x")
    with pytest.raises(ConfigError, match=r"is a folder, and has no revision 'v1'"):
        hub.find_folder("org/name", tmp_path, "x", revision="v1")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; name the folder"):
        hub.find_folder("file", tmp_path, "x")
    with pytest.raises(ConfigError, match="a revision in 'a/b@v1' and another"):
        hub.find_folder("a/b@v1", tmp_path, "x", revision="v2")
    with pytest.raises(ConfigError, match="revision is that of an id"):
        parse_text(ModelConfig, SMALL, "small", ("vision.tower={revision: main, config: {}}",))


def test_revisions_choose_snapshots(cache: Path, tmp_path: Path) -> None:
    first = put_in_cache(cache, "org/name", TINY)
    second = put_in_cache(cache, "org/name", TINY, revision="v2", commit="f" * 40)
    assert hub.find_folder("org/name", tmp_path, "x") == first
    assert hub.find_folder("org/name", tmp_path, "x", revision="v2") == second
    assert hub.find_folder("org/name@v2", tmp_path, "x") == second
    assert hub.find_folder(f"org/name@{'f' * 40}", tmp_path, "x") == second
    assert hub.source_of(second) == {"path": "org/name", "revision": "f" * 40}
    assert hub.name_of(second) == f"org/name@{'f' * 40}" and hub.name_of(tmp_path) == str(tmp_path)
    with pytest.raises(HubUnreachableError, match="'org/name' at 'v3' is not .whole. in the cache"):
        hub.find_folder("org/name@v3", tmp_path, "x")


def test_predict_takes_an_id(cache: Path, command: Command, tmp_path: Path) -> None:
    put_in_cache(cache, "somebody/tiny-ullava", TINY)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    asked = ("--image", str(tmp_path / "a.png"), "--prompt", "What is this?", "--device", "cpu", "--json")
    code, by_id, err = command("predict", "--model", "somebody/tiny-ullava", *asked)
    assert code == 0, err
    code, by_name, _ = command("predict", "--model", "tiny", *asked)
    assert json.loads(by_id)["text"] == json.loads(by_name)["text"]


def test_a_model_that_is_nowhere_is_one_line(cache: Path, command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = ("--image", str(tmp_path / "a.png"), "--prompt", "What is this?")
    code, _, err = command("predict", "--model", "somebody/nothing", *asked)
    assert code == 2 and err.count("error:") == 1
    assert "'somebody/nothing' at 'main' is not (whole) in the cache" in err and "HF_HUB_OFFLINE" in err
    code, _, err = command("predict", "--model", "models/tinny", *asked)
    assert code == 2 and "did you mean 'tiny'?" in err and "cache" not in err
    put_in_cache(cache, "somebody/configs", tmp_path, commit="a" * 40)
    code, _, err = command("predict", "--model", "somebody/configs", *asked)
    assert code == 2 and "'somebody/configs' has no weights in transformers' form" in err


def test_a_recipe_may_name_ids(cache: Path) -> None:
    put_in_cache(cache, "somebody/tiny-ullava", TINY)
    assert weights_folder("somebody/tiny-ullava").name == COMMIT
    assert names_saved_model("somebody/tiny-ullava") and names_saved_model(str(TINY))
    assert not names_saved_model("tiny") and not names_saved_model("models/tiny") and not names_saved_model("tinny")
    path = ROOT / "configs" / "train" / "ci.yaml"
    both = ["init=somebody/tiny-ullava", "model=somebody/tiny-ullava"]
    start = start_model(load_config(TrainRecipe, path, both), path)
    assert start.base is not None and start.base.name == COMMIT


def sizes(part: Any) -> dict[str, Any]:
    return {key: value for key, value in part.config.items() if key != "model_type"}


def test_parts_by_id_are_taken_up_and_noted_with_their_commit(cache: Path, tmp_path: Path) -> None:
    yaml = parse_text(ModelConfig, SMALL)
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes(yaml.vision.tower)))
    tower.save_pretrained(tmp_path / "tower")
    put_in_cache(cache, "org/clip", tmp_path / "tower", revision="v1")
    sam = SamModel(SamConfig(**sizes(yaml.mask.sam)))
    sam.save_pretrained(tmp_path / "sam")
    put_in_cache(cache, "org/sam", tmp_path / "sam", commit="b" * 40)
    put_in_cache(cache, "org/words", ROOT / "models" / "tiny" / "tokenizer")
    parts = ("vision.tower={path: org/clip, revision: v1, config: {}}", "mask.sam={path: org/sam, config: {}}")
    model, processor = build_small((*parts, "tokenizer=org/words"))
    ours = model.vision.tower.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in tower.state_dict().items())
    noted = {
        "vision.tower": {"path": "org/clip", "revision": COMMIT},
        "mask.sam": {"path": "org/sam", "revision": "b" * 40},
    }
    assert model.config.pretrained == noted
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, words = load_folder(tmp_path / "saved", torch.float32)
    assert again.config.pretrained == noted

    heads = parse_text(HeadsConfig, "{mask: {sam: {path: org/sam}}}")
    second, _ = build_fresh_heads(again, words, heads, Path(), site=HEADS)
    assert second.config.pretrained == noted
    plain = HeadsConfig(mask=yaml.mask)
    second, _ = build_fresh_heads(second, words, plain, Path(), site=HEADS)
    assert second.config.pretrained == {"vision.tower": noted["vision.tower"]}


def test_a_cached_part_without_weights_is_named(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "sam").mkdir()
    SamConfig(**sizes(parse_text(ModelConfig, SMALL).mask.sam)).save_pretrained(tmp_path / "sam")
    put_in_cache(cache, "org/sam", tmp_path / "sam")
    with pytest.raises(UserError, match="'org/sam' has no weights in transformers' form"):
        build_small(("mask.sam={path: org/sam, config: {}}",))
    shutil.rmtree(cache)
    hub._fetch.cache_clear()
    with pytest.raises(HubUnreachableError, match=r"mask\.sam\.path: no folder .*'org/sam' at 'main'"):
        build_small(("mask.sam={path: org/sam, config: {}}",))


def test_a_damaged_file_in_the_cache_is_named(cache: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "copy"))
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes()[:5000])
    snapshot = put_in_cache(cache, "org/cut", folder)
    with pytest.raises(WeightsError, match=f"{snapshot}/model.safetensors: cannot be read"):
        load_folder(weights_folder("org/cut"), torch.float32)


# ---------------------------------------------------------------- a Hub that answers
FILES = {name: (TINY / name).read_bytes() for name in ("config.json", "model.safetensors", "chat_template.jinja")}


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as a download needs, and its refusals."""

    def log_message(self, *_: Any) -> None:
        pass

    def _refuse(self, code: int, reason: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:  # noqa: N802 - the server's name
        refusals = {"gated": (403, "GatedRepo"), "private": (401, ""), "gone": (404, "RepoNotFound")}
        for word, (code, reason) in {**refusals, "broken": (500, "")}.items():
            if f"org/{word}" in self.path:
                return self._refuse(code, reason)
        if "/v9" in self.path:
            return self._refuse(404, "RevisionNotFound")
        if "/tree/" in self.path:
            listed = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "0" * 40} for name in FILES]
            listed.append({"type": "file", "path": "evil.py", "size": 9, "oid": "0" * 40})
            return self._answer(json.dumps(listed).encode())
        if "/api/models/" in self.path:
            return self._answer(json.dumps({"id": "org/good", "sha": COMMIT, "siblings": []}).encode())
        name = self.path.split("?")[0].rpartition("/")[2]
        return self._answer(FILES[name], "application/octet-stream", X_Repo_Commit=COMMIT, ETag=f'"{name}"')

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Hub on this machine, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with offline_cache(tmp_path / "cache") as folder:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
        yield folder
    server.shutdown()


def test_what_the_hub_has_is_fetched_without_its_python(online: Path) -> None:
    folder = hub.find_folder("org/good", Path(), "x")
    assert folder.name == COMMIT and {entry.name for entry in folder.iterdir()} == set(FILES)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/gated", "'org/gated' is gated on the Hub: accept its terms"),
        ("org/private", "the Hub does not give 'org/private': it answers 401; if it is private or gated, `hf auth"),
        ("org/gone", "the Hub has no 'org/gone'"),
        ("org/good@v9", "'org/good' has no revision 'v9' on the Hub"),
        ("org/broken", "and the Hub answers 500"),
    ],
)  # fmt: skip
def test_refusals_of_the_hub_are_one_line(online: Path, name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        hub.find_folder(name, Path(), "mask.sam.path")
    (line,) = caught.value.problems
    assert line.startswith("mask.sam.path: no folder ") and said in line and "\n" not in line


def test_no_connection_is_told_at_once(online: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    with pytest.raises(HubUnreachableError, match="and the Hub cannot be reached"):
        hub.find_folder("org/good", Path(), "x")
    assert time.perf_counter() - started < 15
