"""Optuna: which setting comes next, what is recorded of a search, and how its best settings are confirmed."""
