"""The grokking workloads in JAX."""
