"""The digits autoencoder in JAX."""
