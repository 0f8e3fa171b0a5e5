"""The character language model in PyTorch."""
