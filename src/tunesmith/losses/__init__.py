"""Losses: pure tensor functions, sums over named units, never means."""
