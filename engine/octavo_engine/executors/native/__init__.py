"""The executor for CPUs: a whole step in one call of C++, without torch."""
