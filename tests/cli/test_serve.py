"""`wkv serve`: its options, from the command line and from the environment."""

import argparse
import socket

import pytest

from wkv.cli import main, serve


def read(*arguments):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    args = parser.parse_args(arguments)
    args.usage_error = parser.error
    return args


def test_sizes_are_read_in_words():
    sizes = {"1000": 1000, "4k": 4096, "512M": 2**29, "2G": 2**31, "1GiB": 2**30, "1tb": 2**40}
    for text, size in sizes.items():
        assert read("--cache-bytes", text).cache_bytes == size
    with pytest.raises(SystemExit):
        read("--cache-bytes", "much")


def test_the_environment_says_what_the_command_line_does_not(monkeypatch):
    told = {
        "PORT": "8080",
        "CACHE_BYTES": "1M",
        "API_KEY": "one,two",
        "STRATEGY": "cpu fp32",
        "RAY": "0",
        "CACHE_DIR": "/states",
    }
    for name, value in told.items():
        monkeypatch.setenv(f"WKV_SERVE_{name}", value)
    args = read("--strategy", "cpu bf16")
    assert (args.port, args.cache_bytes, args.api_key) == (8080, 2**20, ["one", "two"])
    assert (args.strategy, args.ray, str(args.cache_dir)) == ("cpu bf16", False, "/states")
    monkeypatch.setenv("WKV_SERVE_RAY", "1")
    assert read().ray is True
    monkeypatch.setenv("WKV_SERVE_PORT", "door")
    with pytest.raises(SystemExit):
        read()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--slots", "0"),
        ("--max-body", "0"),
        ("--max-queue", "-1"),
        ("--idle-seconds", "0"),
        ("--api-key", ""),
        ("--api-key", "schlüssel"),
    ],
)
def test_values_that_cannot_work_are_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["serve", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "no-such-model.pth", "--port", str(port)]) == 1
    assert f"the server cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_hosts_are_those_of_this_machine_unless_it_is_open():
    assert "localhost" in serve._hosts(read())
    assert serve._hosts(read("--host", "0.0.0.0")) == ()
    assert serve._hosts(read("--host", "0.0.0.0", "--allow-host", "a.org"))[-1] == "a.org"
