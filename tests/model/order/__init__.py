"""A model of order within an aggregate: owners of slots, their handover, and the relay that publishes in order."""
