"""The latent space of a generator: where photographs lie in it, what it tells of them, walks through it."""
