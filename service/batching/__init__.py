"""Requests of many callers -> batches of the models, without waiting for anybody.

job.py      one request: inputs nobody has taken, inputs at work, answers
lane.py     one model and set of graphs: whose turn it is, and what goes into the next batch
batcher.py  the threads that take batches, and the way back to the callers
callers.py  a caller's wait: an answer, a deadline, or a connection that ended
costs.py    what inputs are going to take
"""

from service.batching.batcher import Batch, Batcher
from service.batching.callers import Watch, deliver
from service.batching.costs import seconds_of
from service.batching.job import Asked, Job

__all__ = ["Asked", "Batch", "Batcher", "Job", "Watch", "deliver", "seconds_of"]
