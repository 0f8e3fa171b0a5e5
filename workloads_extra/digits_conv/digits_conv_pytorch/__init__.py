"""The convolutional digits workload in PyTorch."""
