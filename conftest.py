"""Settings that must be in place before torch and SciPy are imported."""

import os

# Small tensors on two threads spend their time waiting for each other, most of all under xdist.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Lets scikit-learn's common checks run their array-API check instead of skipping it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ.setdefault("MPLBACKEND", "agg")
