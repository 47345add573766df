"""Structures from users: reading, checking, splitting, measuring, and the sets that training sees."""
