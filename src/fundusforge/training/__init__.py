"""Training: one loop for every model family, its batches, its checkpoints and its processes.

The package knows no metric: whatever judges a model is a function handed to `loop.train`.
"""
