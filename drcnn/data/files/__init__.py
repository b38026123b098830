"""Pictures, videos and whole data sets as files: drawn, listed, written, downloaded."""
