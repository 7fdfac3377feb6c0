"""Stages: what is trained. One file each; its Config imports no torch."""
