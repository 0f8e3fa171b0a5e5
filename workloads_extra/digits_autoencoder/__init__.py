"""Digits autoencoder: reconstruct 8 × 8 pixels through twelve numbers."""
