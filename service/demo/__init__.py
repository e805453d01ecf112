"""The demo: a brain MRI goes from a PACS through an approved AI and back, on one machine, with real servers."""
