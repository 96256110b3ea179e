"""Side-by-side measurements: ours against what others would use, and against what the machine allows."""
