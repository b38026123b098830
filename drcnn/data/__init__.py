"""Annotations, readers, the embedded digits data, and the loader."""
