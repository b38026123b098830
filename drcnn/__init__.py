"""Decoupled R-CNN: detector, data and training, without any cluster or tracking library."""
