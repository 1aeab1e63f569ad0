"""A memory bank: what it gives, when and where new rows go in."""

from __future__ import annotations

import pytest
import torch

from vlmgraph.nn.bank import MemoryBank


def rows(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count).float()[:, None].expand(count, 2) * torch.ones(2)


def filled(size: int, *batches: torch.Tensor) -> MemoryBank:
    bank = MemoryBank(size, 2)
    for batch in batches:
        bank(batch)
        bank.after_step()
    return bank


def test_a_batch_does_not_see_itself() -> None:
    bank = MemoryBank(5, 2)
    before = bank.rows.clone()
    assert torch.equal(bank(rows(0, 3)), before) and torch.equal(bank.rows, before)
    bank.after_step()
    assert torch.equal(bank.rows[:3], rows(0, 3)) and torch.equal(bank.rows[3:], before[3:]) and int(bank.place) == 3


def test_the_oldest_go_out() -> None:
    bank = filled(5, rows(0, 3), rows(3, 3), rows(6, 2))
    assert bank.rows[:, 0].tolist() == [5, 6, 7, 3, 4] and int(bank.place) == 3


@pytest.mark.parametrize("size", [1, 4, 7])
def test_any_batch_fits(size: int) -> None:
    """Of a batch larger than the bank its end stays, the places as if all had gone in."""
    bank = filled(size, rows(0, 6), rows(6, 5))
    for value in range(11 - size, 11):
        assert bank.rows[value % size, 0] == value
    assert int(bank.place) == 11 % size


def test_several_batches_between_two_steps() -> None:
    bank = MemoryBank(6, 2)
    bank(rows(0, 2)), bank(rows(2, 2))
    bank.after_step()
    bank.after_step()
    assert bank.rows[:4, 0].tolist() == [0, 1, 2, 3] and int(bank.place) == 4


def test_nothing_goes_in_outside_training_and_no_gradient_comes_out() -> None:
    bank = MemoryBank(4, 2).eval()
    before = bank.rows.clone()
    bank(rows(0, 2))
    bank.after_step()
    assert torch.equal(bank.rows, before)
    x = rows(0, 2).requires_grad_()
    out = bank.train()(x)
    assert not out.requires_grad and not bank.waiting[0].requires_grad
    assert (before.norm(dim=1) - 1).abs().max() < 1e-6 and set(bank.state_dict()) == {"rows", "place"}
