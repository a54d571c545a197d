"""The command line: it lists its commands, and bad input is one line that says what to do."""

import argparse
import importlib
import subprocess
import sys

import pytest
from tiny_store import tiny_store

from cxrlib import cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there_with_its_help(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert callable(module.run)
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0 and f"python -m cxrlib {name}" in capsys.readouterr().out


def test_help_lists_the_commands_and_imports_none_of_them(capsys):
    script = "import sys; from cxrlib.cli import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
    assert "'timm'" not in done.stdout and "'pandas'" not in done.stdout and "'cxrlib.cli'" in done.stdout


def one_line(capsys) -> str:
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "Traceback" not in said.err
    return said.err


def test_an_unknown_command_is_answered_with_the_list(capsys):
    assert cli.main(["trian"]) == 2
    said = one_line(capsys)
    assert "'trian'" in said and all(name in said for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys):
    store = tiny_store(tmp_path, n=24).folder
    words = {
        "there is no recipe 'gpu'": ["train", "gpu", "--data", str(store), "--out", str(tmp_path / "run")],
        "is not a store": ["train", "mu", "--data", str(tmp_path), "--out", str(tmp_path / "run")],
        "reads 96 px": ["train", "cpu", "--data", str(store), "--out", str(tmp_path / "run")],
        "does not exist": ["train", "mu", "--data", str(store), "--out", str(tmp_path / "r2"), "--weights", "no.safetensors"],
        "no run folder": ["evaluate", str(tmp_path)],
        "--batch": ["train", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--batch", "0"],
        "at least one": ["train", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--devices", "0"],
        "correct --seed": ["train", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--seed", "-1"],
        "correct --seed or --lr": ["train", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--lr", "-0.1"],
        "lr (nan)": ["train", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--lr", "nan"],
        "workers is 0": ["doctor", str(tmp_path), "--workers", "0"],
        "seed -1 is negative": ["phantom", str(tmp_path / "cohort"), "--n", "2", "--seed", "-1"],
        "seed -2 is negative": ["phantom", "--contact-sheet", str(tmp_path / "sheet.png"), "--seed", "-2"],
    }
    for expected, arguments in words.items():
        assert cli.main(arguments) == 2, arguments
        assert expected in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (OSError(28, "No space left on device"), 2, "no space left"),
        (PermissionError(13, "Permission denied", "/data"), 2, "Permission denied: /data"),
    ],
)
def test_what_ends_a_command_from_outside_is_one_line_too(monkeypatch, capsys, error, status, words):
    class Command:
        @staticmethod
        def add_parser(subparsers: argparse._SubParsersAction) -> None:
            subparsers.add_parser("doctor")

        @staticmethod
        def run(args: argparse.Namespace) -> None:
            raise error

    monkeypatch.setattr(importlib, "import_module", lambda name: Command)
    assert cli.main(["doctor"]) == status
    assert words in one_line(capsys)


def test_a_bug_is_not_dressed_up_as_bad_input(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])
