"""From a request to clips."""
