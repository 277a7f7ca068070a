"""The image Turing test: can readers tell synthetic photographs from real ones (Kim et al. 2022)?"""
