"""Physical operators: labels first, numbers second."""
