"""Barlow Twins for recommendation."""
