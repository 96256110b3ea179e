"""Fine-tune an exported model on a labelled task, and score it: entity typing, relation classification."""
