"""The digits autoencoder in PyTorch."""
