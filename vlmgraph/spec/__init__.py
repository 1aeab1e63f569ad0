"""TOML → `Spec`: merged values that know where they came from."""

from .locate import installed_specs, specs_dir
from .read import Spec, read_spec
from .tree import Origin

__all__ = ["Origin", "Spec", "installed_specs", "read_spec", "specs_dir"]
