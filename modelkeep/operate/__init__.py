"""The closed loop: drift → update → verify → canary → promote or roll back, with a person able to step in."""
