"""MLflow: where its runs are kept, what is written of a study and its trials, and the published model."""
