"""Scores to rows: metrics with intervals, one results.csv, and a picture."""
