"""The few operations that cost time: described as data, evaluated by backends."""
