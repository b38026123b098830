"""What is to be run: study file, request, overrides, and the trials they become. Loads nothing heavy."""
