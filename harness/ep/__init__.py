"""Expert parallelism beside a bench: the ep-check verb, other benches' output, traces."""
