"""What runs a model: threads or processes, and what is sent to them. They know nothing of who asks."""
