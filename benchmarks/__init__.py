"""Benchmarks: speed of the driver, calibration of the statistics."""
