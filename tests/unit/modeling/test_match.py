"""Products of states with the cells of a map: nothing at first, then where the thing is, and whether it is there."""

from __future__ import annotations

import torch
from tests.unit.modeling.conftest import batch_of, grounded_sample
from tests.unit.modeling.small_sam2 import build_sam2
from torch.nn import functional

from ullava.modeling.heads.match import TOP_SHARE, CellMatch


def test_it_learns_which_cells_a_state_means_and_when_none_are() -> None:
    generator = torch.Generator().manual_seed(0)
    names = torch.randn(6, 12, generator=generator)
    looks = torch.randn(6, 16, generator=generator)
    torch.manual_seed(0)
    match = CellMatch(16, 12)
    match.init_new_weights()
    optimizer = torch.optim.Adam(match.parameters(), lr=0.02)
    fresh = match(names, match.embed(torch.randn(6, 16, 8, 8, generator=generator)))
    assert float(fresh.detach().abs().max()) == 0.0, "a decoder is not disturbed at first"

    def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Maps [6, 16, 8, 8] of two halves that show two things, what each is asked for, and where that is."""
        left, right = torch.randint(6, (6,), generator=generator), torch.randint(6, (6,), generator=generator)
        maps = torch.cat([looks[side][:, :, None, None].expand(6, 16, 8, 4) for side in (left, right)], dim=3)
        asked = torch.randint(6, (6,), generator=generator)
        where = torch.cat([(side == asked)[:, None, None].expand(6, 8, 4) for side in (left, right)], dim=2)
        return maps + 0.1 * torch.randn(maps.shape, generator=generator), asked, where.float()

    for _ in range(300):
        maps, asked, where = scene()
        like = match(names[asked], match.embed(maps))
        there = where.flatten(1).amax(dim=1)
        loss = functional.binary_cross_entropy_with_logits(like, where)
        loss = loss + functional.binary_cross_entropy_with_logits(match.presence(like), there)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = there_right = 0.0
    for _ in range(20):
        maps, asked, where = scene()
        like = match(names[asked], match.embed(maps)).detach()
        right += float(((like > 0) == where.bool()).float().mean()) / 20
        there_right += float(((match.presence(like) > 0) == where.flatten(1).any(dim=1)).float().mean()) / 20
    assert right > 0.97 and there_right > 0.97


def test_the_largest_products_tell_presence() -> None:
    logits = torch.full((1, 16, 16), -5.0)
    count = 256 // TOP_SHARE
    logits[0, 3, :count] = 7.0
    assert float(CellMatch.presence(logits)[0]) == 7.0
    logits[0, 3, 0] = -5.0
    assert float(CellMatch.presence(logits)[0]) == (7.0 * (count - 1) - 5.0) / count


def test_products_move_mask_and_presence_of_their_own_image_alone() -> None:
    model, processor = build_sam2()
    batch = batch_of(processor, [grounded_sample("1", 1), grounded_sample("2", 1)])
    with torch.no_grad():
        before = model(**batch.inputs.as_kwargs()).seg
        model.mask_head.match.cells.bias.fill_(1.0)
        after = model(**batch.inputs.as_kwargs()).seg
        shift = after.mask_logits_lowres - before.mask_logits_lowres
    assert bool((shift.abs() > 1e-6).any())
    for place in range(2):
        flat = shift[place].flatten()
        torch.testing.assert_close(flat, flat[:1].expand_as(flat), rtol=1e-4, atol=1e-4)
        told = after.presence_logits[place] - before.presence_logits[place]
        torch.testing.assert_close(told, flat[0], rtol=1e-4, atol=1e-4)
