"""Weights of mapped files in float32: the same numbers, and no more memory than those need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ullava.modeling.loading.mapped import in_float32


def test_numbers_and_sharing_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wanted = {"a": torch.randn(300, 40).half(), "b": torch.arange(5000), "c": torch.randn(7).half()}
    save_file(wanted, tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")
    mapped["tied"] = mapped["a"]
    own = torch.randn(4000).half()
    given = dict(mapped) | {"own": own}
    made = in_float32(given)
    assert not given and list(made) == [*mapped, "own"]
    assert made["a"] is made["tied"] and made["a"].dtype == torch.float32 and made["b"].dtype == torch.int64
    for name, value in wanted.items():
        assert torch.equal(made[name], value.float() if name != "b" else value)
        assert torch.equal(mapped[name], value), "what was given back is read from the file again"
    assert torch.equal(made["own"], own.float()) and bool(own.isfinite().all())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's memory accounts")
def test_the_file_is_not_in_memory_beside_its_float32(tmp_path: Path) -> None:
    """64 MiB of float16 become 128 MiB of float32; both together would be 192."""
    torch.manual_seed(0)
    save_file({str(number): torch.randn(1024, 1024).half() for number in range(32)}, tmp_path / "w.safetensors")
    code = (
        "import resource, torch; from safetensors.torch import load_file;"
        "from ullava.modeling.loading.mapped import in_float32;"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024;"
        f"before = most(); made = in_float32(load_file({str(tmp_path / 'w.safetensors')!r}));"
        "print(most() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150
