"""The anatomy of an image: vessels as a graph, disc and fovea, vessel noise, and the defects readers name."""
