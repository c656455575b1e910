from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ullava.benchmarks import workload
from ullava.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_drawn_once_and_read_through_the_public_layout(cache):
    made = workload.prepare(3)
    stamps = [path.stat().st_mtime_ns for path in sorted(made.folder.glob("images/*"))]
    again = workload.prepare(3)
    assert [path.stat().st_mtime_ns for path in sorted(again.folder.glob("images/*"))] == stamps
    mixture = made.mixture()
    assert len(mixture) == made.images == 3
    sample = mixture.sample(0)
    assert len(sample.turns) == workload.EXPRESSIONS
    region = sample.turns[0].regions[0]
    assert region.mask.shape == (workload.HEIGHT, workload.WIDTH)
    assert region.mask.any()
    assert not list(cache.glob("**/.drawing-*"))


def test_images_pack_like_the_peers():
    sizes = []
    for seed in range(8):
        packed = io.BytesIO()
        image = workload.image_rgb_u8(np.random.default_rng(seed))
        Image.fromarray(image).save(packed, "JPEG", quality=workload.JPEG_QUALITY)
        sizes.append(len(packed.getvalue()))
    assert 85_000 < np.median(sizes) < 105_000


def test_polygons_lie_inside_the_image():
    for seed in range(50):
        points = workload.polygon(np.random.default_rng(seed))
        assert workload.POINTS[0] <= len(points) <= workload.POINTS[1]
        assert (points > 0).all()
        assert (points < [workload.WIDTH, workload.HEIGHT]).all()


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="ULLAVA_CACHE"):
        workload.prepare(2)
