"""Pictures of the report: charts for light and dark pages, and images with their detections."""
