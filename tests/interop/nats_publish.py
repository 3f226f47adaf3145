"""Publishes with nats-py what a poller does: each line of the input is a subject, a space and a payload.

Every message is acknowledged by its stream before the next is sent.
"""

import asyncio
import os
import sys

import nats


async def main() -> None:
    client = await nats.connect(os.environ["NATS_URL"])
    jetstream = client.jetstream()
    for line in sys.stdin:
        subject, payload = line.rstrip("\n").split(" ", 1)
        acknowledged = await jetstream.publish(subject, payload.encode())
        print(acknowledged.stream, acknowledged.seq, flush=True)
    await client.close()


asyncio.run(main())
