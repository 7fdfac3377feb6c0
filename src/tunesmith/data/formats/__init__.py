"""Row formats: one file each, with `detect` and `parse`."""
