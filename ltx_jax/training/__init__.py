"""Training: state, step, stages, loop."""
