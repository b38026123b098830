"""The detector, composed from parts."""
