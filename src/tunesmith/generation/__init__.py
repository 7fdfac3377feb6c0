"""Engines that answer requests: sampling, streamed text, stop strings."""
