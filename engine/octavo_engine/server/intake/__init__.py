"""From an HTTP body to complete prompts and sampling parameters, within the limits."""
