"""Declared rules that a table must keep, evaluated in one pass over it."""
