"""Time KNNDetector against scikit-learn's brute force.

    python benchmarks/bench_knn.py

Prints one line per metric: the median seconds of both, taken in turns so that a busy machine is
busy for both, their ratio, and by how much the distances differ. The bare float32 matrix product
is timed as well: no exact search of this kind takes less. The ratio to it is of seconds of the
processor, of all threads, which other processes change less.
"""

import platform
from time import perf_counter, process_time

import numpy as np
import scipy
import sklearn
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info

from skanopatch.detectors import KNNDetector

SEED, REPEATS = 0, 15
N_REFERENCES, N_QUERIES, N_FEATURES = 20_000, 1_000, 768


def seconds(function, *args):
    """Return the seconds of the clock and of the processor that a call takes."""
    start, processor_start = perf_counter(), process_time()
    function(*args)
    return perf_counter() - start, process_time() - processor_start


def main():
    threads = max(pool["num_threads"] for pool in threadpool_info())
    print(f"{platform.machine()} {platform.processor()}, {threads} threads, {platform.system()}")
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, "
        f"scikit-learn {sklearn.__version__}, seed {SEED}, {REPEATS} repeats"
    )
    rng = np.random.default_rng(SEED)
    bank = rng.standard_normal((N_REFERENCES, N_FEATURES), dtype=np.float32)
    queries = rng.standard_normal((N_QUERIES, N_FEATURES), dtype=np.float32)

    for metric in ("cosine", "euclidean"):
        theirs = NearestNeighbors(n_neighbors=1, algorithm="brute", metric=metric).fit(bank)
        ours = KNNDetector(metric=metric).fit(bank)
        difference = np.abs(ours.anomaly_score(queries) - theirs.kneighbors(queries)[0][:, 0])
        turns = [
            (
                seconds(ours.score_samples, queries),
                seconds(theirs.kneighbors, queries),
                seconds(np.matmul, queries, bank.T),
            )
            for _ in range(REPEATS)
        ]
        clock, processor = np.median(turns, axis=0).T  # each of ours, theirs and the product
        own, other, product = clock
        print(
            f"{metric:>9}: {own:.3f} s, scikit-learn {other:.3f} s, ratio {own / other:.2f} "
            f"(bare product {product / other:.2f}); over the bare product "
            f"{processor[0] / processor[2]:.2f}; distances differ by {difference.max():.0e}"
        )


if __name__ == "__main__":
    main()
