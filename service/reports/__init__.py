"""Reports for people: one description of a document, written as a page and as a PDF, in Chinese and English."""
