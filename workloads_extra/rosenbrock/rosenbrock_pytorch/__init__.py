"""The functions of the plane in PyTorch."""
