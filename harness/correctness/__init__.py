"""Is the timed output what the model says? Replay, agreement with a reference, gibberish, conformance."""
