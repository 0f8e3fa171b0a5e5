"""Rosenbrock: two parameters in a curved valley, and other functions of the plane."""
