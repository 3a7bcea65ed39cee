"""Wrong usage and missing packages: the message says what to type instead."""

from importlib.metadata import PackageNotFoundError, requires

import pytest

from wkv.cli import COMMANDS, SYNONYMS, doctor, main
from wkv.cli.machine import Finding
from wkv.demo import WEIGHTS
from wkv.errors import install_command

EXTRAS = ("train", "hf", "eval", "gguf", "serve", "ray")


def usage_error(capsys, *arguments):
    """Return the last line on stderr of a command line that is wrong."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("list", "models"), ("run", "chat"), ("chta", "chat"), ("Generat", "generate")],
)
def test_an_unknown_command_gets_the_nearest_one(capsys, typed, meant):
    assert f"there is no command '{typed}'; did you mean {meant}?" in usage_error(capsys, typed)


def test_a_model_instead_of_a_command_is_recognized(capsys, tmp_path):
    for model in ("g1:0.1b", str(tmp_path), "folder/model.pth"):
        assert usage_error(capsys, model).endswith(f"run: wkv chat {model}")
    assert "wkv --help lists the commands" in usage_error(capsys, "zzzzz")


@pytest.mark.parametrize(("typed", "meant"), [("--hepl", "--help"), ("--versoin", "--version")])
def test_an_unknown_option_of_wkv_itself_gets_the_nearest_one(capsys, typed, meant):
    assert usage_error(capsys, typed).endswith(f"arguments: {typed}; did you mean {meant}?")


@pytest.mark.parametrize("typed", ["--version", "--vers", "-h"])
def test_options_of_wkv_itself_may_be_abbreviated(capsys, typed):
    with pytest.raises(SystemExit) as end:
        main([typed])
    assert end.value.code == 0


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("generate", "--n-predict", "did you mean --max-tokens?"),
        ("generate", "-p", "did you mean --prompt?"),
        ("serve", "--parallel", "did you mean --slots?"),
        ("chat", "--model", "give MODEL without an option: wkv chat MODEL"),
    ],
)
def test_an_option_of_other_programs_leads_to_ours(capsys, command, typed, meant):
    assert usage_error(capsys, command, typed, "x").endswith(meant)


def test_an_unknown_option_gets_the_nearest_one(capsys):
    assert usage_error(capsys, "generate", "--promt", "hi").endswith("did you mean --prompt?")
    assert usage_error(capsys, "models", "--jsno").endswith("did you mean --json?")
    assert usage_error(capsys, "models", "--zzz").endswith("unrecognized arguments: --zzz")
    assert "'0' is not a whole number, 1 or more" in usage_error(capsys, "eval", "--limit", "0")
    assert "'x' is not a whole" in usage_error(capsys, "chat", "--max-tokens", "x")


@pytest.mark.parametrize(
    ("device", "match"),
    [
        ("dml", "dml (DirectML) is not available"),
        ("cuda:99", "cuda:99 is not available"),
        ("vulkan", "expected a device: cpu, cuda"),
        ("xpu", "expected a device: cpu, cuda"),
        ("gpu", "expected a device: cpu, cuda"),
        ("cpu:1", "expected a device: cpu, cuda"),
    ],
)
@pytest.mark.parametrize("command", ["info", "convert"])
def test_devices_that_do_not_exist_are_a_clear_error(capsys, tmp_path, command, device, match):
    arguments = {
        "info": ["info"],
        "convert": ["convert", str(WEIGHTS), str(tmp_path / "m.pth"), "--to", "pth"],
    }
    if device == "cuda:99":  # a strategy may be for another machine
        assert main([*arguments[command], "--strategy", f"{device} fp32"]) == 0
    else:
        assert main([*arguments[command], "--strategy", f"{device} fp32"]) == 1
        error = capsys.readouterr().err
        assert match in error
        assert "Error:" not in error
    assert main(["generate", "--prompt", "a", "--strategy", f"{device} fp32"]) == 1
    assert match in capsys.readouterr().err


def test_synonyms_lead_to_commands():
    assert {meant.split()[0] for meant in SYNONYMS.values()} <= {*COMMANDS, "--version"}
    assert not set(SYNONYMS) & set(COMMANDS)


def test_help_is_a_command_too(capsys):
    for arguments, first in ((["help"], "usage: wkv [-h]"), (["help", "pull"], "usage: wkv pull")):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(first)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: wkv [-h]")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"] if command else ["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_that_installs_an_extra_does_not_install_wkv(extra):
    command = install_command(extra)
    assert "wkv" not in command
    needed = [line for line in requires("wkv") if f'extra == "{extra}"' in line]
    names = {line.split(";")[0].split(">")[0].strip() for line in needed} - {"wkv[serve]"}
    assert names <= {word.strip("'") for word in command.split()}


def test_doctor_separates_every_topic_from_its_text(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    for finding in (*doctor._extras(), Finding("a very long topic", "found")):
        shown = doctor._render(finding)
        assert shown.startswith(f"{finding.topic} ")
        assert max(map(len, shown.splitlines())) <= doctor.WIDTH


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_only_one_negative_number_means_no_limit(command, capsys):
    message = usage_error(capsys, command, "--max-tokens", "-2")
    assert "'-2' is negative, expected a whole number, or -1 for no limit" in message


def test_negative_numbers_mean_random_and_no_limit(capsys):
    command = ["generate", "--prompt", "Alice", "--json"]
    options = ["--top-k", "-1", "--seed", "-1", "--temperature", "5", "--top-p", "1"]
    texts = set()
    for _ in range(2):
        assert main([*command, *options, "--max-tokens", "20"]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 2
    assert main([*command, "--max-tokens", "-1", "--stop", " ", "--temperature", "0"]) == 0
    assert '"stop"' in capsys.readouterr().out


def test_demo_names_the_built_in_model_in_every_command(tmp_path, monkeypatch, capsys):
    from wkv import demo
    from wkv.cli.options import find_model

    monkeypatch.chdir(tmp_path)
    assert find_model("demo") == demo.WEIGHTS
    assert main(["info", "demo", "--json"]) == 0
    assert '"n_params": 3819456' in capsys.readouterr().out
    (tmp_path / "demo").mkdir()
    assert find_model("demo") == "demo"
