"""What is known of a study: the output folder, the results table, MLflow, and where figures come from."""
