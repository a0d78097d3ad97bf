"""This machine: environments, images, telemetry, what is left over."""
