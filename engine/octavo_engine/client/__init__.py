"""An OpenAI client and the load that `octavo chat` and `octavo bench` put on a server."""
