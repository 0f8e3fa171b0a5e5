"""The convolutional digits workload in JAX."""
