"""Facts that the model is asked: which ones, and where their tails are hidden."""
