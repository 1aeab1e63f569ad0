"""Shared models are left as they were found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.architectures.common import SHARED, total


@pytest.fixture(autouse=True, scope="module")
def shared_models_stay_as_they_are() -> Iterator[None]:
    """After a file's tests no shared model has other weights or gradients left in it."""
    yield
    for key, (model, sum_) in SHARED.items():
        assert total(model) == sum_, f"a test changed the weights of the shared model {key!r}"
        assert all(p.grad is None for p in model.parameters()), f"a test left gradients in the shared model {key!r}"
