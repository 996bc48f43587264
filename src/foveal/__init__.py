"""foveal: a retina-first toolkit for vision and vision-language models in medical imaging."""

import os

__version__ = "0.1.0"

# Threads of torch (GNU OpenMP) turn in a loop for milliseconds after each operation, waiting for the next,
# and so take processors from the threads of foveal's own kernels. A short while does for torch as well. This
# counts where torch is imported after foveal; a value of one's own is left as it is.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
