"""Copies trial folders and data between an object store and the nodes."""
