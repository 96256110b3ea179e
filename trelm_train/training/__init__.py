"""The training loop: steps, sessions, estimates, evaluation, reports."""
