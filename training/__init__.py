"""Builds the expert GGUFs that the gateway serves."""
