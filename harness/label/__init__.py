"""Is what runs what the label says? Dialects, guards, attestation, failure signatures, fairness."""
