"""Two replicas on one machine: a conversation outlives the one that answered it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

pytest.importorskip("ray")

SESSION = {"X-Session-Id": "one"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Give the address of two replicas."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("states")
    command = [sys.executable, "-m", "wkv", "serve", "--ray", "--replicas", "2"]
    command += ["--replica-cpus", "0.5", "--port", str(port), "--cache-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            found = re.search(r"(http://\S+)/$", line)
            if found:
                break
        else:
            raise AssertionError("the cluster did not start")
        yield found[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0


def replicas():
    """The processes of the replicas."""
    told = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return {int(row.split()[0]) for row in told.stdout.splitlines() if "ray::ServeReplica" in row}


def say(address, messages, **fields):
    body = {"messages": messages, **fields}
    until = time.monotonic() + 60
    while True:
        answer = httpx.post(
            f"{address}/v1/chat/completions", json=body, headers=SESSION, timeout=60
        )
        if answer.status_code == 200 or time.monotonic() > until:
            assert answer.status_code == 200, answer.text
            return answer.json()
        time.sleep(0.5)  # the one that was lost is being replaced


def test_a_session_goes_on_when_its_replica_is_lost(cluster):
    messages = [{"role": "user", "content": "Hello"}]
    said = []
    for text in ("What is 2 + 2?", "Who are you?", "Bye", "Hello again"):
        answer = say(cluster, messages)
        usage = answer["usage"]
        said.append((usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]))
        messages.append(answer["choices"][0]["message"])
        messages.append({"role": "user", "content": text})
        if text == "Who are you?":
            before = replicas()
            assert len(before) == 2
            for pid in before:  # whoever it was that answered
                os.kill(pid, signal.SIGKILL)
    assert said[0][1] == 0
    for prompt, cached in said[1:]:  # also after the loss, only the new turn was read
        assert prompt - cached < 20
        assert cached > 0
