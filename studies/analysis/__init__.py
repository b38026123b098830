"""What may be claimed: replicates, statistics, comparisons with the paper."""
