"""What the faults share: a world of real servers and processes behind proxies, its load, and its oracle."""
