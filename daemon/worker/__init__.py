"""What runs inside a worker process: the only code that imports tensorflow."""
