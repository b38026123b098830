"""What there is to run on: Ray, the nodes and their checks, slots, throughput."""
