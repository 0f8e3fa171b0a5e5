"""The transformer of the grokking workloads in JAX."""
