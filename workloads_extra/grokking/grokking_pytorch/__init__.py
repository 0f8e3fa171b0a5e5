"""The grokking workloads in PyTorch."""
