"""Image transforms: the package index holds a CUDA build, and text models need none."""

import absent_package

__version__ = "0.28.0"
__getattr__ = absent_package.stand_in(__name__)
