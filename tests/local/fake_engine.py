"""Stands in for `python -m octavo_engine`: same flags as far as they matter, same health, drain and exit statuses.

Its behaviour is chosen by environment variables, so that the tests reach it through a manifest as a user would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
import time

from aiohttp import web


def main() -> int:
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--host", "--chat-template"):
        parser.add_argument(flag)
    parser.add_argument("--port", type=int)
    tls_flags = argparse.ArgumentParser()
    for flag in ("--ssl-certfile", "--ssl-keyfile"):
        tls_flags.add_argument(flag)
    options, rest = parser.parse_known_args()
    tls, _ = tls_flags.parse_known_args(rest)
    if complaint := os.environ.get("FAKE_CONFIG_ERROR"):
        print(complaint, file=sys.stderr)
        return 2
    if complaint := os.environ.get("FAKE_FAILURE"):
        print("loading weights", flush=True)
        print(complaint, file=sys.stderr)
        return 1
    for number in range(int(os.environ.get("FAKE_CHATTER", "0"))):
        print(f"line {number} of a long story about what was loaded and from where", flush=True)
    asyncio.run(serve(options, rest, tls))
    return 0


async def serve(options: argparse.Namespace, rest: list[str], tls: argparse.Namespace) -> None:
    template = options.chat_template
    running = 0
    stop = asyncio.Event()

    async def health(_request: web.Request) -> web.Response:
        return web.Response(status=503 if "FAKE_NEVER_READY" in os.environ else 200)

    async def metrics(_request: web.Request) -> web.Response:
        text = f'# HELP vllm:num_requests_running now\n# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{model_name="m"}} {running}\n'
        return web.Response(text=text)

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal running
        body = await request.json()
        running += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for i in range(body.get("max_tokens", 3)):
                await response.write(f"data: {json.dumps({'token': i, 'pid': os.getpid()})}\n\n".encode())
                await asyncio.sleep(body.get("pause", 0.0))
            await response.write(b"data: [DONE]\n\n")
            return response
        finally:
            running -= 1

    async def about(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "pid": os.getpid(),
                "model": options.model,
                "rest": rest,
                "template": template,
                "key": os.environ.get("OCTAVO_API_KEY"),
                "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "authorization": request.headers.get("Authorization"),
                "cores": sorted(os.sched_getaffinity(0)),
            }
        )

    async def die(_request: web.Request) -> web.Response:
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)

    async def hang(_request: web.Request) -> web.Response:
        """Stop answering, and ignore SIGTERM."""
        time.sleep(1000)  # noqa: ASYNC251 — that is the fault
        return web.Response()

    application = web.Application()
    application.router.add_get("/health", health)
    application.router.add_get("/metrics", metrics)
    application.router.add_post("/v1/completions", answer)
    application.router.add_get("/about", about)
    application.router.add_post("/die", die)
    application.router.add_post("/hang", hang)
    runner = web.AppRunner(application, shutdown_timeout=30)
    await runner.setup()
    context = None
    if tls.ssl_certfile is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.ssl_certfile, tls.ssl_keyfile)
    await web.TCPSite(runner, options.host, options.port, ssl_context=context).start()
    print("loaded in 0.0 s", flush=True)
    if pause := os.environ.get("FAKE_PROGRESS"):
        for number in range(20):
            print(f"{number} MB", flush=True)
            await asyncio.sleep(float(pause))
        os.environ.pop("FAKE_NEVER_READY", None)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
