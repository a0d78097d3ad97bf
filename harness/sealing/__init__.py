"""What lets a stranger accept a result: a promise before the first launch, signed evidence after it."""
