"""What serving costs beside inference: this service and others with the same network, under load.

load.py       the load, in a process of its own: closed loop, open loop, one burst
servers.py    starting, stopping and weighing process trees
contenders.py who is measured, and how each is asked
compare.py    CPU milliseconds, throughput and latency of all of them in one run
overload.py   five times the capacity for a minute
soak.py       twenty minutes at 80 % of it
peers/        the small applications of the others
"""
