"""`python watched_service.py REPORT ARGUMENTS...`: the service, every attempt to leave the process
written down in REPORT and refused.  An audit hook cannot be taken off again."""

import runpy
import sys
from typing import Any

LEAVING = {
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "urllib.Request",
    "http.client.connect",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "pickle.find_class",
}


def watch(report: str) -> None:
    # opened before the hook: the hook may run in any thread, at any moment
    file = open(report, "a", buffering=1)  # noqa: SIM115

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # the server resolves the address it listens on
        looks_up = event == "socket.getaddrinfo" and arguments[0] != "127.0.0.1"
        if event in LEAVING or looks_up:
            file.write(f"{event} {arguments!r}\n")
            raise PermissionError(f"{event} is refused here")

    sys.addaudithook(hook)


if __name__ == "__main__":
    report = sys.argv[1]
    sys.argv = ["service", *sys.argv[2:]]
    sys.path.pop(0)  # this folder: the service has not seen it either
    watch(report)
    runpy.run_module("service", run_name="__main__", alter_sys=True)
