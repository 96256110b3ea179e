"""Contrastive knowledge assessing: which facts a batch asks for, and their loss."""
