"""Assess knowledge by contrast: choose the facts a batch asks for, and compute their loss."""
