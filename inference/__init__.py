"""Numbers in, numbers out: a permitted model on a volume. No DICOM here; see README.md in this folder."""
