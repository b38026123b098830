"""One launch of a study: the order of things, Ray Tune and Ray Train, the dry run, the live table."""
