"""Judging synthetic images against real ones: one metric, one file."""
