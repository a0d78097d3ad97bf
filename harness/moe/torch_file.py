"""Reads a file that torch.save wrote, without torch: a zip with one pickle and one raw file per storage.

Only tensors and plain containers are rebuilt; any other class in the pickle is refused, so a foreign file
cannot run code.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError

_STORAGES = {
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
}


def load(path: Path) -> Any:
    """The saved object, tensors as numpy arrays. Raises InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "")
            if not name:
                raise InputError(f"{path} is a zip file but torch.save did not write it.")
            return _Unpickler(archive, name.removesuffix("data.pkl")).load()
    except (OSError, zipfile.BadZipFile) as reason:
        raise InputError(f"Cannot read {path} as a file of torch.save: {reason}.") from None
    except (pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError, ValueError) as reason:
        raise InputError(f"{path} holds more than tensors and plain values: {reason}.") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive = archive
        self._prefix = prefix

    def find_class(self, module: str, name: str) -> Any:
        """Only what tensors are made of."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """A storage: ("storage", type, key, device, number of elements)."""
        _, kind, key, _, count = pid
        data = self._archive.read(f"{self._prefix}data/{key}")
        return np.frombuffer(data, dtype=_STORAGES[kind], count=count)


def _rebuild(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Any:
    """The view of a storage that a tensor is. Raises ValueError where it would reach beyond the storage."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(storage)):
        raise ValueError(f"a tensor of {size} by {stride} in a storage of {len(storage)}")
    steps = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape=size, strides=steps).copy()
