"""What the dispatcher tells the world about itself: metrics and logs, both fed by events."""
