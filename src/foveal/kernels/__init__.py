"""Numerical kernels: one public function an operation."""
