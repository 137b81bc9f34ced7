"""What went wrong, and what to do: from the words of the API server, scheduler, kubelet and engine. Pure."""
