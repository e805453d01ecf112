"""The log of what the AI did, which nobody can change quietly. It knows nothing of medicine. See README.md."""
