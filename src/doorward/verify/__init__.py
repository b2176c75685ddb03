"""Look at a host from outside, with nmap, and prove that a knock opens."""
