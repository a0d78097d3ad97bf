"""Cases that need torch: run in an engine's environment by a test of the harness's own environment."""
