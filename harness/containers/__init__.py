"""Containers: the settings of one, and this machine's Docker Engine."""
