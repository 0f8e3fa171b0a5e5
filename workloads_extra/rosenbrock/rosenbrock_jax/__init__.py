"""The functions of the plane in JAX."""
