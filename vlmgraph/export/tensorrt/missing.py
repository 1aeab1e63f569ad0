"""What a machine lacks to build engines."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from ...diagnostics import Diagnostic
from ...diagnostics import codes as C

Open = Callable[[str], Any]
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def missing(load: Open = ctypes.CDLL, find: Callable[[str], Any] = importlib.util.find_spec) -> list[str]:
    """Each thing that is not there, in words; empty where engines can be built."""
    found = [*lacking_gpu(load)]
    if find("tensorrt") is None:
        found.append("the Python package tensorrt (10 or later) is not installed")
    else:
        try:
            import tensorrt
        except Exception as error:
            found.append(f"the Python package tensorrt is installed, but cannot be loaded: {error}")
        else:
            if int(tensorrt.__version__.split(".")[0]) < 10:
                found.append(f"TensorRT {tensorrt.__version__} is installed, 10 or later is needed")
    return found


def lacking_gpu(load: Open) -> list[str]:
    """Asked of the driver itself: no package of CUDA needs to be there for that."""
    try:
        driver = load(DRIVER)
    except OSError:
        return [f"no NVIDIA driver: {DRIVER} cannot be loaded"]
    if (code := driver.cuInit(0)) != 0:
        return [f"the NVIDIA driver finds no GPU that it can use (cuInit gives {code})"]
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return ["the NVIDIA driver sees no GPU"]
    return []


def cannot_build(lacking: list[str]) -> Diagnostic:
    text = f"engines of TensorRT cannot be built here: {lacking[0]}"
    fix = "--plan-only writes all that is needed to build them where these are"
    return Diagnostic(C.CANNOT_EXPORT, text, notes=tuple(lacking[1:]), fix=fix)
