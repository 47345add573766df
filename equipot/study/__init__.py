"""What a trained potential is worth: predictions, scans, figures, the report."""
