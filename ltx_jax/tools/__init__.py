"""Command-line tools: flags in, one call, a sentence on error."""
