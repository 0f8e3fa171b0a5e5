"""Benchmarks: cost, memory and progress of a refresh; ``python -m benchmarks`` runs them."""
