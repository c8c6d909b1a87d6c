"""One plain training loop and its losses, shared by optimize and update."""
