"""Models of protocols, small enough to try every interleaving of their steps."""
