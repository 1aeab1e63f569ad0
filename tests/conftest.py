"""`--update` writes the expected texts of golden tests anew instead of comparing them."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault(
    "VLMGRAPH_VERIFY", "1"
)  # every pipeline of the tests, of their subprocesses too, looks at the graph between its passes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write expected texts of golden tests anew")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update"))
