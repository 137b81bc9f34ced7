"""`octavo-health`: exit status 0 if the service in this container says that it is healthy, 1 if not.

For `docker run`'s HEALTHCHECK and for a person inside; Kubernetes probes over HTTP. It asks where PID 1 was configured to
listen: `octavo-health FLAG DEFAULT_PORT PATH`, FLAG being the option of PID 1 that names the port.
"""

import http.client
import sys
from pathlib import Path

SECONDS = 5


def port_of(command: list[str], flag: str, default: int) -> int:
    """The port that `command` names by `flag PORT` or `flag=PORT`."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == flag:
            return int(value if equals else following)
    return default


def main() -> int:
    flag, default, path = sys.argv[1:]
    command = Path("/proc/1/cmdline").read_text(encoding="utf-8").split("\0")
    port = port_of(command, flag, int(default))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"nothing answers on port {port}: {error}")
        return 1
    print(f"{answer.status} {text}".strip())
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
