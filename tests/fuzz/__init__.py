"""Inputs that are damaged on purpose: makers, what must hold for each, and a runner."""
