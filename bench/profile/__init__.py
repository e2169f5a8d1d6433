"""Where CPU time goes: the real server under load, its stacks sampled from outside."""
