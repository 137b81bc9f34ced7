"""The API process's link to the core process."""
