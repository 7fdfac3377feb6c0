"""Parallel backends: all that differs between one process and many."""
