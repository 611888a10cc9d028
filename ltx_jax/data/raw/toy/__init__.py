"""The toy world: small procedural clips with sound whose truth is known exactly."""
