"""Choosing and evaluating detectors, fitted on normal clips only."""
