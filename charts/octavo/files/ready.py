"""The program of `helm test`: python ready.py HOST PORT. Ends with 0 once every replica behind HOST is ready, 1 after
90 s.
"""

import socket
import sys
import time
import urllib.error
import urllib.request

SECONDS = 90


def main(host: str, port: str) -> int:
    end = time.monotonic() + SECONDS
    while True:
        try:
            found = {address[0] for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
            answers = [ask(f"[{ip}]" if ":" in ip else ip, port) for ip in sorted(map(str, found))]
        except OSError as error:
            answers = [(False, f"{host}: {error}")]
        if all(ready for ready, _ in answers) or time.monotonic() > end:
            print(*(text for _, text in answers), sep="\n", flush=True)
            return 0 if all(ready for ready, _ in answers) else 1
        time.sleep(2)


def ask(host: str, port: str) -> tuple[bool, str]:
    """True if a replica is ready, and what it says."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=10) as answer:
            return True, f"{host}: {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return False, f"{host}: {error.code} {error.read().decode()}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
