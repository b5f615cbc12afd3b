"""The pure part: values and decisions, standard library only, no I/O."""
