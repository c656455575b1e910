"""A native core in two processes: DDP, FSDP2 and ZeRO-2 train as one process does; ZeRO-3 is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.unit.modeling.native_models import HEADS, NATIVES, write_processor
from tests.unit.training.conftest import RECIPE
from tests.unit.training.test_train_sharded import WAYS, check_same, skip_where_it_cannot_run, train

from ullava.config.load import load_config
from ullava.config.schema import TrainRecipe
from ullava.training.distributed.sharding import check_core

FAMILY = "idefics3"


@pytest.fixture
def native_recipe(tmp_path: Path, world: Path, write: Callable[[str, str], Path]) -> Path:
    """A recipe for a native core at random weights."""
    processor = write_processor(FAMILY, tmp_path / "processor")
    core = {"kind": "native", "config": NATIVES[FAMILY].config, "processor": str(processor)}
    model = write("model.yaml", yaml.safe_dump({"name": FAMILY, "core": core}) + HEADS)
    return write("recipe.yaml", RECIPE.replace("WORLD", str(world)).replace("MODEL", str(model)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", ["ddp", "fsdp2", "zero2"])
def test_two_processes_equal_one(native_recipe: Path, tmp_path: Path, way: str) -> None:
    """Rows of words alone are among them: then one process runs a vision encoder that the other does not."""
    skip_where_it_cannot_run(way)
    options = ["training.learning_rate=1e-3", "training.save_strategy=no", "training.optim=adamw_torch"]
    options += ["dataset={shapes_res: {weight: 2, turns: 2}, shapes_text: {weight: 1}}"]
    batch = "training.per_device_train_batch_size"
    one = train(native_recipe, tmp_path / "one", 1, *options, f"{batch}=4")
    override, wrapper = WAYS[way]
    two = train(native_recipe, tmp_path / "two", 2, *options, override, f"{batch}=2")
    check_same(one, two, wrapper)


def test_what_a_native_core_cannot_do_in_a_run_is_told_by_name(native_recipe: Path) -> None:
    recipe = load_config(TrainRecipe, native_recipe, ("pretokenized=true",))
    problems = check_core("native", recipe, {"deepspeed": "zero3.json"})
    assert [problem.split(":")[0] for problem in problems] == ["training.deepspeed", "pretokenized"]
    assert "ZeRO-2 or sharding: fsdp2" in problems[0]
    assert check_core("native", load_config(TrainRecipe, native_recipe), {"deepspeed": "zero2.json"}) == []
    assert check_core("spliced", recipe, {"deepspeed": "zero3.json"}) == []
