"""One launch of a study: the order of things, Ray Tune, the dry run, the live table."""
