"""Weights in few bits: one file a way to quantise."""
