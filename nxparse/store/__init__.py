"""Durable storage: directory operations, SQLite, bodies, uploads and deliveries."""
