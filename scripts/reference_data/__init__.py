"""Reference data of the examples, computed with tight binding (GFN-xTB)."""
