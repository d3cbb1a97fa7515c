"""Comparisons: several models, trained in several ways on the same data, beside each other."""
