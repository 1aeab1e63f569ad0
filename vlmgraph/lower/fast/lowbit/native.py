"""The compiled form of `rows.cpp`: made once for this processor and this torch, kept in the user's cache, loaded into torch's operators."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("rows.cpp")
ready = False
"""Whether the operators run compiled."""
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fopenmp")


class Unbuilt(Exception):
    """Why there is no compiled form."""


@cache
def load() -> bool:
    """Compile the operators (some seconds, once) and load them. Where that fails torch's own run, which is logged once."""
    global ready
    if os.environ.get("VLMGRAPH_LOWBIT") == "torch":
        return False
    try:
        torch.ops.load_library(str(built()))
    except (Unbuilt, OSError, RuntimeError) as error:
        log.warning("products of a few rows run by torch, at half the speed: %s", error)
        return False
    ready = True
    return True


def built() -> Path:
    """The library's file. Raises Unbuilt."""
    compiler = found_compiler()
    command = [compiler, *FLAGS, native_flag(), f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}", *includes()]
    libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]  # found by name: this process has loaded them
    text = SOURCE.read_bytes()
    key = hashlib.sha256("\0".join((*command, torch.__version__, processor())).encode() + text).hexdigest()[:16]
    target = folder() / f"rows-{key}.so"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "rows.so"
        try:
            done = subprocess.run([*command, str(SOURCE), "-o", str(made), *libraries], capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unbuilt(f"{compiler}: {error}") from error
        if done.returncode or not made.is_file():
            lines = (
                [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [f"exit {done.returncode}"]
            )
            raise Unbuilt(f"{compiler}: {lines[0]}")
        made.replace(target)
    return target


def found_compiler() -> str:
    """The one torch.compile takes. Raises Unbuilt."""
    if platform.system() != "Linux":
        raise Unbuilt(f"compiled on Linux alone, this is {platform.system()}")
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        return str(get_cpp_compiler())
    except Exception:  # whatever torch's internals raise, other names are tried
        named = (shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name)
        compiler = next((path for path in named if path), None)
        if compiler is None:
            raise Unbuilt("there is no C++ compiler") from None
        return compiler


def native_flag() -> str:
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def includes() -> list[str]:
    root = Path(torch.__file__).parent / "include"
    return [f"-I{root}", f"-I{root / 'torch/csrc/api/include'}"]


def processor() -> str:
    """What `native` means here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def folder() -> Path:
    """Of the user's cache, or a temporary one of this process where that cannot be written. Raises Unbuilt."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmgraph"
    try:
        cache_home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(cache_home, os.W_OK):
            return cache_home
    except OSError:
        pass
    try:
        return Path(tempfile.mkdtemp(prefix="vlmgraph-"))
    except OSError as error:
        raise Unbuilt(str(error)) from error
