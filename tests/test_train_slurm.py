"""The Slurm script that ships with the library, and the commands of chapter 16: what nobody here can run is at least parsed."""

import argparse
import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

from cxrlib import recipes
from cxrlib.cli import COMMANDS
from cxrlib.pretraining import recipes as pretraining_recipes

SCRIPT = Path(str(files("cxrlib.training") / "slurm.sbatch"))
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")

SRUN = """#!/bin/bash
trap 'echo stopped >> said; exit 143' TERM
echo $$ > srun.pid; printf '%s\\n' "$@" > words
for i in $(seq 100); do [ -f finish ] && touch "$RUN/result.json" && exit 0; [ -f fail ] && exit 3; sleep 0.05; done
"""
SCANCEL = '#!/bin/bash\necho "scancel $*" >> said\nkill -TERM "$(cat srun.pid)"\n'
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo first; echo second; else echo "scontrol $*" >> said; fi\n'


def test_bash_reads_it():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert SCRIPT.read_text().startswith("#!/bin/bash\n")


def parsed(words: list[str]) -> argparse.Namespace:
    """The words after `python -m cxrlib`, read by the command's own parser; a word that it does not know ends the test."""
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[words[0]][0]).add_parser(parser.add_subparsers())
    return parser.parse_args(words)


def begin(folder: Path, *, more: str | None = "--weights gmml.safetensors") -> subprocess.Popen:
    """The script at work among stand-ins for Slurm's commands, once it has started its step."""
    (folder / "bin").mkdir()
    (folder / "run").mkdir()
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x",
        "SLURM_JOB_NUM_NODES": "2", "RUN": str(folder / "run"), "STORE": "store", "PYTHON": sys.executable,
    }  # fmt: skip
    env |= {} if more is None else {"MORE": more}
    job = subprocess.Popen(["bash", str(SCRIPT)], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    wait_for(folder / "words", job)
    return job


def wait_for(path: Path, job: subprocess.Popen) -> None:
    for _ in range(200):
        if path.exists() and path.read_text():
            time.sleep(0.1)  # the script's next lines, which set its trap
            return
        assert job.poll() is None
        time.sleep(0.05)
    raise AssertionError(f"{path.name} did not appear")


def test_its_command_is_one_that_train_and_torchrun_know(tmp_path):
    job = begin(tmp_path)
    (tmp_path / "finish").touch()
    assert job.wait(timeout=20) == 0
    words = (tmp_path / "words").read_text().splitlines()
    middle = words.index("cxrlib")
    args = parsed(words[middle + 1 :])
    assert args.recipe == "lt_vit_small_224" and recipes.get(args.recipe).weights == ""
    assert (args.data, args.out, args.weights, args.device) == ("store", str(tmp_path / "run"), "gmml.safetensors", "cuda")
    from torch.distributed.run import get_args_parser

    start = words.index("torch.distributed.run")
    launcher = get_args_parser().parse_args(words[start + 1 :])
    assert (launcher.nnodes, launcher.nproc_per_node, launcher.rdzv_endpoint, launcher.rdzv_id) == ("2", "8", "first:29500", "7")
    assert launcher.module and launcher.training_script == "cxrlib"
    devices = int(launcher.nnodes) * int(launcher.nproc_per_node)
    assert recipes.get(args.recipe).batch % devices == 0
    assert not (tmp_path / "said").exists()  # finished: nobody was told to stop, nothing was put back


@pytest.mark.parametrize(("more", "expected"), [("", None), ("--priors P --teacher T", None), (None, "/nih/runs/gmml/encoder.safetensors")])
def test_only_the_words_asked_for_are_added(tmp_path, monkeypatch, more, expected):
    """CLARiTy and the plain ViT keep their recipe's own start; LT-ViT's, the default, begins with GMML's encoder."""
    monkeypatch.setenv("HOME", "")
    job = begin(tmp_path, more=more)
    (tmp_path / "finish").touch()
    assert job.wait(timeout=20) == 0
    words = (tmp_path / "words").read_text().splitlines()
    args = parsed(words[words.index("cxrlib") + 1 :])
    assert args.weights == expected and (args.priors, args.teacher) == (("P", "T") if more else (None, None))


def test_a_warning_stops_the_training_and_puts_the_job_back(tmp_path):
    job = begin(tmp_path)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 0
    said = (tmp_path / "said").read_text().splitlines()
    assert said == ["scancel --signal=TERM 7", "stopped", "scontrol requeue 7"]


def test_a_training_that_fails_is_not_put_back(tmp_path):
    job = begin(tmp_path)
    (tmp_path / "fail").touch()
    assert job.wait(timeout=20) == 3
    assert not (tmp_path / "said").exists()


def test_it_asks_for_what_it_uses():
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)", SCRIPT.read_text(), flags=re.M))
    gpus = re.search(r"GPUS=\$\{GPUS:-(\d+)\}", SCRIPT.read_text())[1]
    assert asked["gpus-per-node"] == gpus and asked["signal"].startswith("B:USR1@") and "requeue" in asked
    assert asked["ntasks-per-node"] == "1"


def test_every_command_of_the_chapter_is_one_that_the_library_knows():
    """Words, recipes, and that whatever a command reads was written by one before it."""
    text = (Path(__file__).parent.parent / "chapters" / "16_full_training.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S) for line in block.splitlines()]
    lines = [line.split(" -m cxrlib ")[1] for line in lines if " -m cxrlib " in line]
    assert len(lines) > 15
    made = set()
    for line in lines:
        words = shlex.split(line)
        args = parsed(words)
        if words[0] == "train":
            assert recipes.get(args.recipe)
        if words[0] == "pretrain":
            assert pretraining_recipes.get(args.method, args.recipe)
        needed = {word for word in words[1:] if re.match(r"(STORE|RUNS/|LOGITS|PRIORS|NIH$)", word)}
        out = getattr(args, "out", None)
        missing = {word for word in needed - {out} if not any(word == m or word.startswith(f"{m}/") for m in made)}
        assert not missing, f"{line}: {missing} was not made before"
        made.add(out)
