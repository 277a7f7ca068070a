"""Annotation: structure masks predicted by trained models, added to dataset folders."""
