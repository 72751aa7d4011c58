"""Measurements with saved reports; never timed tests."""
