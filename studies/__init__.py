"""Studies: sets of trials over one configuration, run by Ray and recorded by MLflow."""
