"""Follows a stream with httpx-sse and prints each event as one line of JSON.

Opens each connection with a fresh stream token, and resumes with the last id by the header.
"""

import json
import os
import sys
import time

import httpx
from httpx_sse import connect_sse

stream = os.environ["STREAM_URL"]
mint = os.environ["MINT_URL"]
access = {"Authorization": f"Bearer {os.environ['ACCESS_TOKEN']}"}


def follow(client: httpx.Client, last_event_id: str) -> str:
    """Reads one connection to its end; gives the last id."""
    token = client.post(mint, headers=access).raise_for_status().json()["token"]
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with connect_sse(client, "GET", stream, params={"token": token}, headers=headers) as source:
        source.response.raise_for_status()
        for event in source.iter_sse():
            print(json.dumps({"id": event.id, "event": event.event, "data": event.data}), flush=True)
            last_event_id = event.id
            # What is told before the connection breaks counts, so it is kept outside of this call.
            follow.last = last_event_id
    return last_event_id


follow.last = ""
with httpx.Client(timeout=httpx.Timeout(5, read=60)) as client:
    while True:
        try:
            follow(client, follow.last)
        # A server that is about to stop answers 503 for as long as it listens.
        except httpx.HTTPError as error:
            print(error, file=sys.stderr)
        time.sleep(0.1)
