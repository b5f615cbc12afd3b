"""What is wrong, how bad it is, and what to do about it: values for the console, `status` and `doctor`. Pure."""
