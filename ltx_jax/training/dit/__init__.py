"""The transformer's stage: inputs, noise, losses, its objective and its data."""
