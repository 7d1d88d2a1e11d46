"""Measuring a model: protocols, estimators with their uncertainty, and the report."""
