"""Stands in for packages that SGLang imports but never runs on a CPU: CUDA kernels, Triton, image transforms.

Every name and submodule exists, so imports, decorators and type annotations work. Running a kernel raises,
so one that is truly needed stops the engine instead of going unnoticed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn


class Absent:
    """A function, class or constant of an absent package; it may decorate and annotate."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Absent:
        return attribute(self._path, name)

    def __call__(self, *_args: object, **_kwargs: object) -> Absent:
        """What a decorator or a constant's constructor does at import time."""
        return self

    def __getitem__(self, _grid: object) -> NoReturn:
        """Launching a Triton kernel on a grid."""
        raise NotImplementedError(
            f"{self._path} is not installed: a kernel was launched that has no CPU form"
        )

    def __or__(self, _other: object) -> Absent:
        return self

    __ror__ = __or__

    def __mro_entries__(self, _bases: tuple[object, ...]) -> tuple[type, ...]:
        return (object,)

    def __instancecheck__(self, _instance: object) -> bool:
        return False

    def __subclasscheck__(self, _subclass: type) -> bool:
        return False


class AbsentKernel(Absent):
    """A compiled kernel: calling it is running it."""

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise NotImplementedError(f"{self._path} has no CPU build: choose a PyTorch-native backend")


class Submodules(MetaPathFinder, Loader):
    """Finds every submodule of the packages that stand in."""

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.startswith(self._prefix) else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = partial(attribute, module.__name__)


def stand_in(package: str) -> Callable[[str], Absent]:
    """Make every submodule of `package` importable; return what its `__getattr__` has to be."""
    sys.meta_path.append(Submodules(package))
    return partial(attribute, package)


def attribute(package: str, name: str) -> Absent:
    """`package.name`. Raises AttributeError for dunder names, which import, copy and inspect probe for, and
    RuntimeError where Triton raises it because the machine has no GPU: SGLang asks so what device it is on.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    if (package, name) == ("triton.runtime.driver", "active"):
        raise RuntimeError("no active Triton driver: this machine has no GPU")
    kind = AbsentKernel if package.startswith("sgl_kernel") else Absent
    return kind(f"{package}.{name}")
