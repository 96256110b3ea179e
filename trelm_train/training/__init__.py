"""Run the training loop: steps, sessions, estimates, evaluation, reports."""
