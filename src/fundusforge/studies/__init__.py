"""Studies: whole investigations on trained models and dataset folders."""
