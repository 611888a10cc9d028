"""The classic families of diffusion, each as small pure functions on one notation (spec families.md)."""
