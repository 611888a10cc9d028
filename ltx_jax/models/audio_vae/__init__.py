"""Mel front end, audio VAE and vocoder."""
