"""Searching dense prediction cells in JAX (Chen et al., NeurIPS 2018, arXiv:1809.04184). Words and shapes: `base`."""
