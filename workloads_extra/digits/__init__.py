"""Digits: 1797 scanned digits, 8 × 8 pixels, ten classes."""
