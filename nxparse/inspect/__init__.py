"""Requests recorded, shown, redacted and reported."""
