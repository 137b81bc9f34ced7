"""The HTTP server: `routes` receive, `intake` checks and completes a request, `answer` writes what comes back. No torch."""
