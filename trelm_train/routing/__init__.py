"""Choose the neurons that hold knowledge, and train them alone."""
