"""Text: tokenizer, Gemma, feature extractors, connectors."""
