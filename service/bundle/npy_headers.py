"""Headers of npy arrays are read by one thread at a time.

numpy parses them with ast.literal_eval, and CPython 3.11.7 was seen to fail in that while another
thread did the same ("AST constructor recursion depth mismatch"): a good file seemed damaged.
"""

import threading

ONE_AT_A_TIME = threading.Lock()
