"""The Triton compiler: 1 GB, and none of its kernels runs on a CPU. Its two integer functions are real."""

import os

import absent_package

# torch.compile would take this for the real compiler and fail. Every process started from here inherits it.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

__version__ = "3.7.0"
__getattr__ = absent_package.stand_in(__name__)


def cdiv(numerator: int, denominator: int) -> int:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


def next_power_of_2(value: int) -> int:
    """The least power of two that is not below `value`."""
    return 1 << max(0, value - 1).bit_length()
