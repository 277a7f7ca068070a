"""Phantoms: a procedural eye and a procedural brain with ground truth for every mask; data of no patient."""

from fundusforge.sources.phantom.brain import Brain, BrainConfig, draw_brain
from fundusforge.sources.phantom.eye import Eye, EyeConfig, draw_eye

__all__ = ["Brain", "BrainConfig", "Eye", "EyeConfig", "draw_brain", "draw_eye"]
