"""Digits, convolutional: 8 × 8 pixels, ten classes, batch normalisation."""
