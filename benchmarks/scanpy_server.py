"""scanpy's clustering on request, run by benchmarks/run.py under an interpreter that has scanpy.

    python scanpy_server.py STATES.npy CLUSTERS.npy wall|cpu

For every line on stdin STATES.npy, float32 [n, d], is read and pca (128), neighbors (15) and leiden (resolution 1) are
run once; the clusters, int [n], go to CLUSTERS.npy and the seconds, reading and writing not counted, to stdout.
"""

import sys
import time

import anndata
import numpy as np
import scanpy


def main() -> None:
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[3]]
    for _ in sys.stdin:
        states = np.load(sys.argv[1])
        sites = anndata.AnnData(states)
        start = clock()
        scanpy.pp.pca(sites, n_comps=min(128, min(states.shape) - 1))
        scanpy.pp.neighbors(sites, n_neighbors=15)
        scanpy.tl.leiden(sites, resolution=1.0, flavor="igraph", n_iterations=-1, directed=False)
        seconds = clock() - start
        np.save(sys.argv[2], sites.obs["leiden"].to_numpy().astype(np.int64))
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
