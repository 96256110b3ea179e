"""Assess knowledge by contrast: compare a hidden tail with others, and compute the loss."""
