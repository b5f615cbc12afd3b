"""What runs beside the loop: registry, takeover, gauges."""
