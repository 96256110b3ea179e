"""Predict which facts a model learns from a run's statistics: `trelm-pipeline ask learned`.

`fact_features` asks DuckDB for what a corpus says about each fact, `prediction` fits a logistic
model and measures it on facts of subjects that it has not met, `answer` brings both together.
"""
