"""What `batonctl` is made of: its connection, its commands, and what they print. Runs in no daemon."""
