"""The kernels' benchmark and the search for their tiles: python -m pallas_kernels.bench --help."""
