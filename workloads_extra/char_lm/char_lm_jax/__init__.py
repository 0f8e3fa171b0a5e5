"""The character language model in JAX."""
