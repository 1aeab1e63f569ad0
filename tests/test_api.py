"""The names of the Python API."""

from __future__ import annotations

import subprocess
import sys

import vlmgraph


def test_functions_are_not_hidden_by_folders_of_the_same_name():
    import vlmgraph.elaborate
    import vlmgraph.export

    assert callable(vlmgraph.elaborate) and callable(vlmgraph.export)
    assert all(callable(getattr(vlmgraph, name)) for name in vlmgraph.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(vlmgraph, "complie")


def test_import_brings_nothing_heavy():
    code = "import sys, vlmgraph; print(sorted(m for m in ('torch', 'pydantic', 'rich', 'jinja2', 'numpy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
