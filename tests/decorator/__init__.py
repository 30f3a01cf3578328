"""A package, so that an installed distribution of the same name does not hide it."""
