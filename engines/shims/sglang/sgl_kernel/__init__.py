"""SGLang's compiled kernels, which the package index holds for CUDA only."""

import absent_package

__version__ = "0.4.10"
__getattr__ = absent_package.stand_in(__name__)
