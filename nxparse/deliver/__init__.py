"""Delivery: the outbox, the rules, and one module for each kind of target."""
