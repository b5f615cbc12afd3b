"""Of the model."""
