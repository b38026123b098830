"""What a person reads: tables, charts, images with their detections, and pages of them."""
