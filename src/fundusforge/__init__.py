"""fundusforge: real retinal photographs in, trained generators and judged synthetic labelled images out."""

__version__ = "0.1.0"
