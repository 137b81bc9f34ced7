"""`python -m octavo_operator.metrics_api`: serves custom.metrics.k8s.io until SIGTERM.

Exit status: 0 ended in order; 2 no API server is known, or an argument is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if os.getpid() == 1:
    # A container's first process has no default action: until the loop listens to signals, one would be lost.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))

from octavo_operator.cluster.connection import connect
from octavo_operator.errors import NoClusterError
from octavo_operator.logs import add_flags, set_up

log = logging.getLogger("octavo_operator.metrics_api")


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.tls_cert_file is None) != (options.tls_private_key_file is None):
        parser.error("--tls-cert-file and --tls-private-key-file go together; give both, or --cert-dir")
    if options.tls_cert_file is not None and options.cert_dir is not None:
        parser.error("--cert-dir holds tls.crt and tls.key; give it, or the two files")
    set_up(options.log_format, options.log_level)
    try:
        connection = connect()
    except NoClusterError as error:
        log.error("%s", error)  # noqa: TRY400 — a sentence, not a traceback
        return 2
    from octavo_operator.metrics_api.process import run  # noqa: PLC0415 — --help need not wait for aiohttp

    files = (options.tls_cert_file, options.tls_private_key_file) if options.tls_cert_file is not None else None
    if options.cert_dir is not None:
        files = (options.cert_dir / "tls.crt", options.cert_dir / "tls.key")
    with asyncio.Runner() as runner:
        runner.run(
            run(
                connection,
                namespace=options.operator_namespace or connection.namespace,
                address=(options.bind_address, options.secure_port),
                certificate_files=files,
                period=options.scrape_period,
            )
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m octavo_operator.metrics_api",
        description="Serves custom.metrics.k8s.io: queue, batch and KV use of each engine.",
    )
    parser.add_argument("--secure-port", type=int, default=10250, help="of the API over TLS, /healthz, /livez, /readyz")
    parser.add_argument("--bind-address", default=None, help="address of the same; by default all")
    given = parser.add_argument_group("serving certificate", "by default the operator's own, from a Secret it renews")
    given.add_argument("--tls-cert-file", type=Path, metavar="FILE", help="PEM, read again when it changes")
    given.add_argument("--tls-private-key-file", type=Path, metavar="FILE", help="its key")
    given.add_argument("--cert-dir", type=Path, metavar="DIR", help="holds tls.crt and tls.key, in place of the two")
    parser.add_argument("--operator-namespace", metavar="NAME", help="of the Secret and Service; by default its own")
    parser.add_argument("--scrape-period", type=_period, default=5.0, metavar="SECONDS", help="of each engine")
    add_flags(parser)
    return parser


def _period(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError("between 0.1 and 60 s")
    return seconds


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("octavo-metrics-api", main))
