"""Whole ways from clips to decisions: the detector of sounds and the pipelines."""
