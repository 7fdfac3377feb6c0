"""Tuners: which parameters are trained, how they are saved and merged. Configs import no torch."""
