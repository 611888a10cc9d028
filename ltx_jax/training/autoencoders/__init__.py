"""The autoencoders' stages: objectives and previews."""
