"""Fit the linker's weights to gold links."""
