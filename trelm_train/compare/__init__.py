"""Compare arms at equal time: the same seeds and budgets, probed alike, with intervals."""
