"""The log over time: series of one question's figures, where they changed, and pages of all of it."""
