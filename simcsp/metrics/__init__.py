"""SCCS, clustering, scores and intervals, proxies, benchmark species, masked bases, relation of proxies and F1."""
