"""An application that adds events."""
