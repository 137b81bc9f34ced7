"""Turns an HTTP body into complete prompts and sampling parameters, within the limits."""
