"""Offline half: train or bring a classifier, fit OOD detectors, calibrate, export a bundle."""
