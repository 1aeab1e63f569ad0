"""Honeybee's C-Abstractor and CyCLIP's loss as vlmgraph components."""

from pathlib import Path


def specs_dir() -> Path:
    """Where this plugin's specs are."""
    return Path(__file__).parent / "specs"
