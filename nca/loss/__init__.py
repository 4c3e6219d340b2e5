"""The style loss and the feature extractors it is computed on."""
