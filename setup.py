"""Places the two top-level folders inside the package; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

PLACES = {"vlmgraph.codegen": "codegen", "vlmgraph.specs": "specs"}

setup(
    packages=[
        *find_packages(include=["vlmgraph", "vlmgraph.*"]),
        *PLACES,
        *(f"{name}.{inner}" for name, folder in PLACES.items() for inner in find_packages(folder)),
    ],
    package_dir=PLACES,
)
