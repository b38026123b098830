"""What runs in a trial's own processes: its job, one worker or a group, whose fault a failure is."""
