"""The steps of the loop, one file a step: wake, claim, publish, settle."""
