"""Order within an aggregate (DISPATCH_ORDER=aggregate): what a relay claims of the slots it owns, and what waits."""
