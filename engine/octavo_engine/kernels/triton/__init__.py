"""The kernels for GPUs, one file an operation, each with a twin in `reference` or `reference_operations`."""
