"""Save a run, go on from it, and export its model."""
