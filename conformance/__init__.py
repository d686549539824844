"""Real applications on the virtual slot and on a plain module: the differences are the result."""
