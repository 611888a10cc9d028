"""Files to parts and parts to files."""
