"""Sampling: a trained generator and structure masks to a dataset folder of synthetic, labelled images."""
