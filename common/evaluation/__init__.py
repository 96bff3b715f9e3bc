"""Prediction and what is made of it: views, the CSV, scores, the report, named photographs."""
