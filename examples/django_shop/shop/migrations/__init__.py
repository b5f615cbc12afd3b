"""Of the models, and of what the consumer remembers."""
