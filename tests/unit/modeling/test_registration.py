"""The Auto classes know our models after ``import ullava``, in either order, in new processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = ROOT / "models" / "tiny" / "weights"
KINDS = {
    "AutoConfig": "UllavaConfig",
    "AutoModelForImageTextToText": "UllavaForConditionalGeneration",
    "AutoProcessor": "UllavaProcessor",
}


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()


LONG = pytest.mark.exhaustive
"""A process of its own each, which imports everything."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "autos"),
    [
        ("import ullava, transformers", "AutoModelForImageTextToText AutoProcessor AutoConfig"),
        pytest.param("import ullava, transformers", "AutoProcessor", marks=LONG),
        pytest.param("import ullava, transformers", "AutoConfig", marks=LONG),
        ("import transformers, ullava", "AutoModelForImageTextToText AutoProcessor"),
        pytest.param(
            "import transformers; transformers.AutoProcessor; import ullava",
            "AutoProcessor AutoModelForImageTextToText",
            marks=LONG,
        ),
        pytest.param("import ullava.modeling.configuration, transformers", "AutoConfig AutoProcessor", marks=LONG),
        pytest.param(
            "import ullava; from transformers import AutoTokenizer; import transformers", "AutoProcessor", marks=LONG
        ),
    ],
)
def test_saved_folders_are_recognized(order: str, autos: str) -> None:
    calls = [f"print(type(transformers.{auto}.from_pretrained({str(WEIGHTS)!r})).__name__)" for auto in autos.split()]
    assert run("; ".join([order, *calls])) == [KINDS[auto] for auto in autos.split()]


def test_importing_us_imports_neither_torch_nor_transformers() -> None:
    assert run("import sys, ullava; print({'torch', 'transformers'} & set(sys.modules))") == ["set()"]


def test_a_config_travels_to_a_spawned_process(tmp_path: Path) -> None:
    file = tmp_path / "config.pkl"
    run(
        "import pickle, ullava, transformers; "
        f"config = transformers.AutoConfig.from_pretrained({str(WEIGHTS)!r}); "
        f"open({str(file)!r}, 'wb').write(pickle.dumps(config))"
    )
    assert run(f"import pickle; print(pickle.load(open({str(file)!r}, 'rb')).model_type)") == ["ullava"]
