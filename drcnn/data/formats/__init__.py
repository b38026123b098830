"""The formats of data folders: how each is recognised, and read into a table of annotations."""
