"""The end-to-end suite, and the real cluster that it runs on."""
