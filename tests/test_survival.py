"""Every failure that a run is meant to survive, caused.

    failure                                         caused by
    ------------------------------------------------------------------------------------------------------------------
    kill -9 at any moment                           test_a_run_killed_again_and_again_ends_with_the_same_bits (here)
                                                    test_train_runs: ..._killed_process_..., ..._dies_at_any_step_...
                                                    test_pretraining: ..._killed_process_..., ..._dies_at_any_step_...
    kill -9 before, between and after the renames   test_a_kill_at_any_rename_of_a_save_... (here)
    kill between last step and validation           test_train_runs: ..._between_the_last_step_and_the_validation_...
    a truncated checkpoint                          test_a_damaged_checkpoint_is_said_and_set_aside (here)
                                                    test_train_runs: ..._damaged_last_checkpoint_falls_back_...
    a full disk: ENOSPC of a real small disk        test_a_full_disk_... (here)
    a full disk: ENOSPC that is made up             test_train_runs: test_a_full_disk_keeps_what_was_saved
    a limit on the size of files (EFBIG)            test_a_limit_on_the_size_of_files_... (here)
    a lost worker: killed                           test_a_lost_worker_... (here)
    a lost worker: hangs                            test_a_worker_that_hangs_... (here)
    a loss that is NaN                              test_the_images_of_a_step_without_a_loss_are_named (here)
                                                    test_train_runs, test_pretraining: ..._not_a_number_...
    SIGTERM from a scheduler, Ctrl-C                test_train_runs: ..._killed_process_...[15]
                                                    test_pretraining: ..._told_to_stop_...
    SIGUSR1 (Slurm's warning)                       test_one_signal_stops_both_... (here)
    a signal that reaches one of two processes      test_one_signal_stops_both_..., test_torchrun_... (here)
    a stop while another process still saves        test_nobody_leaves_before_the_state_is_saved (here)
    a data store that is lost during the run        test_a_lost_store_... (here)
    two processes that train into one folder        test_tracking: test_a_process_that_holds_the_folder_...
    an error that only the main process meets       test_what_stops_the_main_process_... (here)
    another number of processes                     test_a_run_moves_between_one_process_and_two (here)
    a file that would run code when it is read      test_nothing_is_unpickled (here)
"""

import ast
import ctypes
import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import start, workers
from same_bits import assert_same_tensors
from tiny_store import tiny_store

import cxrlib
from cxrlib import cli, recipes
from cxrlib.data import ImageStore
from cxrlib.data.feed import epoch_order
from cxrlib.data.pixels import Pixels
from cxrlib.errors import CxrError
from cxrlib.pretraining import pretrain
from cxrlib.pretraining import recipes as pretraining_recipes
from cxrlib.training import checkpoint, company, keeper, loop, objectives, train
from cxrlib.training.checkpoint import read_tensors

MU = dataclasses.replace(recipes.mu(), epochs=5)
"""Four steps an epoch: 20 in all."""
STEADY = dataclasses.replace(MU, drop_path=0.0)
"""Nothing random inside the model: on two processes each would draw its own."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tiny_store(tmp_path_factory.mktemp("data")).folder


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory) -> Path:
    """MU, unbroken."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train(MU, store, out, device="cpu")["steps"] == 20
    return out


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averaged weights, optimizer state and best weights: all bitwise equal; so are the epochs' scores."""
    assert_same_tensors(a, b)
    assert epochs(a) == epochs(b)
    assert not list(b.glob(".*.part"))


def lines(run: Path, event: str) -> list[dict]:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in log if line["event"] == event]


def epochs(run: Path) -> list[tuple]:
    return [(line["epoch"], line["step"], line["loss"], line["val_macro_auroc"], line["best"]) for line in lines(run, "epoch")]


# What the processes do


def command(store: Path, out: Path, *more: str) -> list[str]:
    return ["train", "mu", "--data", str(store), "--out", str(out), "--device", "cpu", *more]


def call_mu(recipe: recipes.Recipe) -> None:
    def mu() -> recipes.Recipe:
        """The recipe of this test."""
        return recipe

    recipes.RECIPES["mu"] = mu


def trains(recipe: recipes.Recipe, words: list[str], losses: str = "", at: int = 0, number: int = 0, patience: float = 600) -> int:
    """The command line with `recipe` under the name mu. Each step's loss is added to the file `losses`; before step `at` the
    process sends itself the signal `number`."""
    call_mu(recipe)
    company.PATIENCE = company.timedelta(seconds=patience)
    real, share, calls = loop.train_step, loop.share, 0

    def noting(*args, **options):
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), number)
        return real(*args, **options)

    def summed(*args):
        shared_3 = share(*args)  # the loss of the global batch, over all processes
        if losses:
            with open(losses, "a") as file:
                file.write(f"{float(shared_3[0])!r}\n")
        return shared_3

    loop.train_step, loop.share = noting, summed
    return cli.main(words)


def one(recipe, words, said: Path, *args) -> None:
    process = start(trains, recipe, words, *args, said=said)
    process.join(100)
    assert process.exitcode == 0, said.read_text()


def two(recipe, words, said: Path, *each, env=None) -> list:
    """Two processes as torchrun starts them; `each` holds what only one of them is told."""
    told = each or ((), ())
    started = [
        start(trains, recipe, [*words, *more[0]] if more else words, *more[1:], said=said.with_suffix(f".{rank}"), env=env)
        for rank, (env, more) in enumerate(zip(workers(2), told))
    ]
    return started


def end(processes: list, *, within: float = 100) -> list[int]:
    began = time.monotonic()
    for process in processes:
        process.join(max(0.1, within - (time.monotonic() - began)))
    hung = [process for process in processes if process.exitcode is None]
    for process in hung:
        process.kill()
        process.join()
    assert not hung, f"still there after {within} s"
    return [process.exitcode for process in processes]


# kill -9


@pytest.mark.timeout(120)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(whole, store, tmp_path):
    """Saving after every step, a run spends much of its time in a save: some of the kills fall into one."""
    words, losses = command(store, tmp_path / "run", "--checkpoint-steps", "1"), tmp_path / "losses.txt"
    random, deaths = np.random.default_rng(), 0  # any moment will do: a seed would test the same ones for ever
    while not (tmp_path / "run" / "result.json").exists() and deaths < 7:
        losses.write_text("")
        process = start(trains, MU, words, str(losses), said=tmp_path / "said")
        steps, delay = int(random.integers(1, 4)), float(random.uniform(0, 0.02))
        while len(numbers(losses)) < steps and process.exitcode is None:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.join()
        deaths += process.exitcode == -signal.SIGKILL
    assert deaths >= 3
    one(MU, words, tmp_path / "said")
    assert_same_run(whole, tmp_path / "run")


def dies_in_a_save(words: list[str], call: int, after: bool) -> int:
    """Kills itself before or after a rename: each save has three, the new file's own, last -> previous, next -> last."""
    call_mu(MU)
    real, calls, saves = os.replace, 0, checkpoint.save_checkpoint

    def replace(*args, **options):
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **options)
        if calls == call and after:
            os.kill(os.getpid(), signal.SIGKILL)

    def save(*args, **options):  # the renames of other files are not counted
        os.replace = replace
        saves(*args, **options)
        os.replace = real

    keeper.save_checkpoint = save
    return cli.main(words)


@pytest.mark.parametrize(("call", "after"), [(1, True), (4, False), (4, True), (5, True), (6, True)])
def test_a_kill_at_any_rename_of_a_save_goes_on_to_the_same_bits(whole, store, tmp_path, call, after):
    """The first save has no last to move away: its two renames are 1 and 2, those of the second 3, 4, 5."""
    words = command(store, tmp_path / "run", "--checkpoint-steps", "3")
    process = start(dies_in_a_save, words, call, after, said=tmp_path / "said")
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    left = {path.name for path in (tmp_path / "run").glob("*.safetensors")} - {"best.safetensors"}
    expected = {
        (1, True): {"next.safetensors"},
        (4, False): {"last.safetensors", "next.safetensors"},
        (4, True): {"previous.safetensors", "next.safetensors"},  # between the two
        (5, True): {"last.safetensors", "previous.safetensors"},
        (6, True): {"last.safetensors", "previous.safetensors", "next.safetensors"},
    }
    assert left == expected[call, after]
    train(MU, store, tmp_path / "run", device="cpu")
    assert_same_run(whole, tmp_path / "run")
    assert not (tmp_path / "run" / "next.safetensors").exists()


def test_a_damaged_checkpoint_is_said_and_set_aside(whole, store, tmp_path, monkeypatch, capsys):
    """The next save must not put it in the place of the whole one before."""
    run, real, calls = tmp_path / "run", loop.train_step, 0

    def dies(*args, **options):
        nonlocal calls
        calls += 1
        if calls > 6:
            raise RuntimeError("power cut")
        return real(*args, **options)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(RuntimeError):
        train(MU, store, run, device="cpu", checkpoint_steps=1)
    last = run / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    kept = read_tensors(run / "previous.safetensors")[1]["step"]
    capsys.readouterr()
    with pytest.raises(RuntimeError):  # dies again before it saves
        train(MU, store, run, device="cpu", checkpoint_steps=1)
    said = capsys.readouterr().out
    assert "last.safetensors is damaged" in said and f"after step {kept}" in said
    assert not last.exists() and (run / "damaged.safetensors").exists()
    monkeypatch.setattr(loop, "train_step", real)
    train(MU, store, run, device="cpu")
    assert_same_run(whole, run)


# A full disk


def small_disk(folder: Path, kilobytes: int) -> bool:
    """Mounts a disk of that size at `folder`, for this process alone. False: this system does not let us."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts, private_all = 0x10000000, 0x00020000, (1 << 18) | (1 << 14)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(new_mounts):
        if libc.unshare(new_user | new_mounts):
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", b"/", None, private_all, None):
        return False
    folder.mkdir(exist_ok=True)
    return not libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, f"size={kilobytes}k".encode())


def fills_its_disk(words: list[str], disk: Path, out: Path) -> int:
    """Trains on a small disk that a file fills up during step 7; then frees it and goes on. 77: no small disk to be had."""
    if not hasattr(ctypes.CDLL(None), "unshare") or not small_disk(disk, 2000):
        return 77
    call_mu(MU)
    real, calls = loop.train_step, 0

    def fills(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 7:
            with open(disk / "filler", "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC
            os.truncate(disk / "filler", (disk / "filler").stat().st_size - 100_000)  # room for a log, not for a checkpoint
        return real(*args, **options)

    loop.train_step = fills
    status = cli.main(words)
    loop.train_step = real
    kept = read_tensors(disk / "run" / "last.safetensors")[1]["step"]
    print(f"status {status}, kept step {kept}", file=sys.stderr)
    (disk / "filler").unlink()
    status = cli.main(words)
    shutil.copytree(disk / "run", out)
    return status


def test_a_full_disk_ends_with_one_line_and_the_run_goes_on_when_there_is_space(whole, store, tmp_path):
    disk = tmp_path / "disk"
    words = command(store, disk / "run", "--checkpoint-steps", "2")
    process = start(fills_its_disk, words, disk, tmp_path / "out", said=tmp_path / "said")
    process.join(60)
    if process.exitcode == 77:
        pytest.skip("this system lets no process mount a disk of its own; the limit on the size of files is tested below")
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 0 and "Traceback" not in said, said
    assert len([line for line in said.splitlines() if line.startswith("cxrlib: no space left while writing")]) == 1
    assert "status 2, kept step 6" in said and "after step 6 of 20" in said
    assert_same_run(whole, tmp_path / "out")
    assert not list(disk.iterdir())  # it was that process's own


def meets_a_limit(words: list[str]) -> int:
    """From step 7 on no file may be larger than 100,000 bytes; a checkpoint has 278,840."""
    call_mu(MU)
    real, calls = loop.train_step, 0

    def limits(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return real(*args, **options)

    loop.train_step = limits
    return cli.main(words)


def test_a_limit_on_the_size_of_files_ends_with_one_line_and_the_last_checkpoint_stays(whole, store, tmp_path):
    words = command(store, tmp_path / "run", "--checkpoint-steps", "2")
    process = start(meets_a_limit, words, said=tmp_path / "said")
    process.join(60)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 2 and "cxrlib: no space left while writing" in said and "Traceback" not in said
    assert read_tensors(tmp_path / "run" / "last.safetensors")[1]["step"] == 6
    train(MU, store, tmp_path / "run", device="cpu")
    assert_same_run(whole, tmp_path / "run")


# Several processes


@pytest.fixture(scope="module")
def kinds(store, tmp_path_factory) -> dict[str, recipes.Recipe]:
    priors = tmp_path_factory.mktemp("priors") / "priors"
    assert cli.main(["priors", "make", str(store), str(priors), "--source", "template", "--size", "16"]) == 0
    clarity = {"wait_epochs": 1.0, "ramp_epochs": 2.0, "contrastive": 0.1}
    return {
        "vit": STEADY,
        "lt_vit": dataclasses.replace(STEADY, model="lt_vit", options={"n2": 1}),
        "clarity": dataclasses.replace(STEADY, model="clarity", losses=clarity, priors=str(priors)),
    }


@pytest.fixture(scope="module")
def alone(kinds, store, tmp_path_factory) -> dict[str, list[float]]:
    """The 20 losses of each kind on one process."""
    folder, losses = tmp_path_factory.mktemp("alone"), {}
    for kind, recipe in kinds.items():
        one(recipe, command(store, folder / kind), folder / "said", str(folder / f"{kind}.txt"))
        losses[kind] = numbers(folder / f"{kind}.txt")
        assert len(losses[kind]) == 20
    return losses


def numbers(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().split()]


def gap(a: list[float], b: list[float]) -> float:
    assert len(a) == len(b)
    return float(np.abs(np.array(a) - np.array(b)).max())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["vit", "lt_vit", "clarity"])
def test_two_processes_have_the_losses_of_one(kinds, alone, store, tmp_path, kind):
    each = tuple(((), str(tmp_path / f"{rank}.txt")) for rank in (0, 1))
    assert end(two(kinds[kind], command(store, tmp_path / "run"), tmp_path / "said", *each)) == [0, 0]
    assert gap(numbers(tmp_path / "0.txt"), alone[kind]) < 1e-6
    assert numbers(tmp_path / "0.txt") == numbers(tmp_path / "1.txt")
    assert lines(tmp_path / "run", "start")[0]["processes"] == 2


@pytest.fixture(scope="module")
def pair(store, tmp_path_factory) -> Path:
    """STEADY on two processes, unbroken."""
    out = tmp_path_factory.mktemp("pair")
    assert end(two(STEADY, command(store, out / "run"), out / "said")) == [0, 0]
    return out / "run"


@pytest.mark.timeout(120)
def test_one_signal_stops_both_after_the_same_step_and_the_run_goes_on(pair, store, tmp_path):
    """SIGUSR1 reaches the second process only. The first saves all the time and the second never: what each does by its own
    clock must not decide after which step it stops."""
    words = command(store, tmp_path / "run")
    each = (
        (("--checkpoint-minutes", "0"), str(tmp_path / "0.txt")),
        (("--checkpoint-minutes", "1000"), str(tmp_path / "1.txt"), 6, signal.SIGUSR1),
    )
    assert end(two(STEADY, words, tmp_path / "said", *each), within=60) == [128 + signal.SIGUSR1] * 2
    said = (tmp_path / "said.0").read_text()
    assert "the same command goes on from here" in said and "Traceback" not in said + (tmp_path / "said.1").read_text()
    assert numbers(tmp_path / "0.txt") == numbers(tmp_path / "1.txt") and 6 <= len(numbers(tmp_path / "0.txt")) < 20
    assert lines(tmp_path / "run", "stop")[0]["signal"] == signal.SIGUSR1
    assert end(two(STEADY, words, tmp_path / "said")) == [0, 0]
    assert_same_run(pair, tmp_path / "run")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("order", [(2, 1), (1, 2)])
def test_a_run_moves_between_one_process_and_two(alone, store, tmp_path, order):
    words, file = command(store, tmp_path / "run"), tmp_path / "losses.txt"
    for part, processes in enumerate(order):
        stop = (6, signal.SIGTERM) if part == 0 else ()
        if processes == 1:
            process = start(trains, STEADY, words, str(file), *stop, said=tmp_path / "said")
            ended = end([process])
        else:
            ended = end(two(STEADY, words, tmp_path / "said", ((), str(file), *stop), ()))
        assert ended == [128 + signal.SIGTERM if part == 0 else 0] * processes
    assert gap(numbers(file), alone["vit"]) < 1e-6
    assert tuple(line["processes"] for line in lines(tmp_path / "run", "start")) == order


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_other_with_one_line_and_the_run_goes_on(pair, store, tmp_path, lost):
    words = command(store, tmp_path / "run", "--checkpoint-steps", "2")
    each = [((), str(tmp_path / f"{rank}.txt")) for rank in (0, 1)]
    each[lost] = (*each[lost], 8, signal.SIGKILL)
    processes = two(STEADY, words, tmp_path / "said", *each)
    codes = end(processes, within=60)
    assert codes[lost] == -signal.SIGKILL and codes[1 - lost] == 2
    said = (tmp_path / f"said.{1 - lost}").read_text()
    assert "Traceback" not in said and said.count("cxrlib: another process of this training died") == 1, said
    gone, noticed = (path.stat().st_mtime for path in (tmp_path / f"{lost}.txt", tmp_path / f"said.{1 - lost}"))
    assert noticed - gone < 30
    assert end(two(STEADY, words, tmp_path / "said")) == [0, 0]
    assert "after step 6 of 20" in (tmp_path / "said.0").read_text()
    assert_same_run(pair, tmp_path / "run")


@pytest.mark.timeout(120)
def test_what_stops_the_main_process_stops_all_with_the_same_line(store, tmp_path):
    """Only the main process opens the run folder; the others used to wait for it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("not a run")
    assert end(two(STEADY, command(store, tmp_path / "run"), tmp_path / "said"), within=60) == [2, 2]
    for rank in (0, 1):
        said = (tmp_path / f"said.{rank}").read_text()
        assert "is not empty and holds no run: choose another --out" in said and "Traceback" not in said


@pytest.mark.timeout(120)
def test_a_worker_that_hangs_is_given_up(store, tmp_path):
    """Stopped, not dead: its connections stay open, and only the clock can tell. The patience is 2 seconds here."""
    each = (((), "", 0, 0, 2.0), ((), "", 8, signal.SIGSTOP, 2.0))
    processes = two(STEADY, command(store, tmp_path / "run"), tmp_path / "said", *each)
    try:
        assert end(processes[:1], within=40) == [2]
    finally:
        processes[1].kill()
    said = (tmp_path / "said.0").read_text()
    assert "Traceback" not in said and said.count("another process of this training died or does not answer") == 1, said


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


SLOW_SAVE = """
import os, signal, sys, time
import cxrlib, torch
torch.set_num_threads(1)
from cxrlib import cli
from cxrlib.training import keeper, loop

save, step, main, steps = keeper.save_checkpoint, loop.train_step, os.environ.get("LOCAL_RANK", "0") == "0", 0

def slow(*args, **options):
    if steps >= 6:
        time.sleep(7)  # Fabric looks every 5 seconds whether a process has ended, and then kills the rest
    save(*args, **options)

def told(*args, **options):
    global steps
    steps += 1
    if steps == 6 and main:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(*args, **options)

keeper.save_checkpoint, loop.train_step = slow, told
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.timeout(180)  # two interpreters that import torch, and a slow save
def test_nobody_leaves_before_the_state_is_saved(store, tmp_path):
    """`--devices 2`, told to stop, the main process needs long to save: the other waits for it, or its end would kill the save."""
    (tmp_path / "slow.py").write_text(SLOW_SAVE)
    words = ["train", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--device", "cpu", "--devices", "2"]
    path = os.pathsep.join([str(Path(cxrlib.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "slow.py"), *words], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path
    )
    assert done.returncode == 128 + signal.SIGTERM and "stopped after step" in done.stdout, done.stdout + done.stderr
    assert read_tensors(tmp_path / "run" / "last.safetensors")[1]["step"] >= 6


@pytest.mark.timeout(180)  # three interpreters that import torch
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it finds torchrun's workers in /proc")
def test_torchrun_stops_when_one_worker_is_told_to(store, tmp_path):
    words = command(store, tmp_path / "run", "--epochs", "100000", "--checkpoint-steps", "1")
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cxrlib.__file__).parents[1])}
    with open(tmp_path / "said", "w") as said:
        agent = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cxrlib", *words],
            env=env, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        while not (tmp_path / "run" / "last.safetensors").exists():
            assert agent.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        os.kill(children(agent.pid)[-1], signal.SIGTERM)
        assert agent.wait(60) != 0  # a worker that was stopped has not finished, and says so by its status
    finally:
        agent.kill()
    assert "the same command goes on from here" in (tmp_path / "said").read_text()
    stop = lines(tmp_path / "run", "stop")
    assert len(stop) == 1 and read_tensors(tmp_path / "run" / "last.safetensors")[1]["step"] == stop[0]["step"]


# A loss that is no number


def test_the_images_of_a_step_without_a_loss_are_named(store, tmp_path, monkeypatch):
    real, calls = objectives.masked_bce, 0

    def poisoned(*args, **options):
        nonlocal calls
        calls += 1
        return real(*args, **options) * (float("nan") if calls == 6 else 1.0)

    monkeypatch.setattr(objectives, "masked_bce", poisoned)
    with pytest.raises(CxrError) as stopped:
        train(MU, store, tmp_path / "run", device="cpu")
    opened = ImageStore.open(store)
    held = {line.split(",")[0] for line in (tmp_path / "run" / "validation.csv").read_text().splitlines()[1:]}
    rows = np.array([row for row in opened.where(split="train_val") if opened.table["image"][row] not in held])
    batch = rows[epoch_order(len(rows), seed=0, epoch=1)[16:32]]  # step 6 is the second of the second epoch
    expected = list(opened.table["image"].iloc[batch])
    assert ", ".join(expected[:3]) in str(stopped.value)
    (failed,) = lines(tmp_path / "run", "failed")
    assert failed["step"] == 6 and failed["images"] == expected and failed["loss"] == "nan"


def test_the_images_of_a_pretraining_s_step_without_a_loss_are_named(store, tmp_path, monkeypatch):
    from cxrlib.pretraining import loop as pretraining_loop

    read, real, seen, calls = pretraining_loop.films, pretraining_loop.step, [], []

    def noted(run):
        for part in read(run):
            seen.append(list(run.store.table["image"].iloc[part.rows]))
            yield part

    def poisoned(*args):
        calls.append(args)
        loss, *rest = real(*args)
        return (float("nan") if len(calls) == 3 else loss, *rest)

    monkeypatch.setattr(pretraining_loop, "films", noted)
    monkeypatch.setattr(pretraining_loop, "step", poisoned)
    with pytest.raises(CxrError) as stopped:
        pretrain(pretraining_recipes.get("gmml", "mu"), store, tmp_path / "run", device="cpu")
    assert f"begin with {', '.join(seen[2][:3])};" in str(stopped.value)
    (failed,) = lines(tmp_path / "run", "failed")
    assert failed["step"] == 3 and failed["images"] == seen[2]


# Lost data


def test_pixels_are_the_store_s_bytes_and_a_lost_file_is_one_line(store, tmp_path, monkeypatch):
    opened = ImageStore.open(store)
    rows = np.array([5, 0, 119, 5])
    assert np.array_equal(opened.pixels[rows], opened.images_NYX[rows]) and len(opened.pixels) == 120
    with pytest.raises(IndexError):
        opened.pixels[np.array([120])]
    shutil.copy(store / "images.u8", tmp_path / "images.u8")
    pixels = Pixels(tmp_path / "images.u8", opened.images_NYX.shape)
    os.truncate(tmp_path / "images.u8", 100 * 32 * 32 - 1)
    assert np.array_equal(pixels[np.array([98])], opened.images_NYX[98:99])
    with pytest.raises(CxrError, match="ends within image 99 of 120.*the same command"):
        pixels[np.array([3, 99])]

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken, raising=False)
    with pytest.raises(CxrError, match="can no longer be read .Input/output error at image 3"):
        pixels[np.array([3])]


def test_pixels_where_the_system_has_no_positioned_reads(store, monkeypatch):
    opened = ImageStore.open(store)
    monkeypatch.delattr(os, "preadv", raising=False)
    assert np.array_equal(opened.pixels[np.array([7, 2])], opened.images_NYX[[7, 2]])


@pytest.mark.parametrize("what", ["train", "pretrain"])
def test_a_lost_store_ends_with_one_line_and_the_run_goes_on_when_it_is_back(whole, store, tmp_path, monkeypatch, what):
    """The file is cut short during step 6. Mapped into memory, it would end the process by a bus error."""
    from cxrlib.pretraining import loop as pretraining_loop

    shutil.copytree(store, tmp_path / "store")
    place, name = (loop, "train_step") if what == "train" else (pretraining_loop, "step")
    real, calls, content = getattr(place, name), 0, (store / "images.u8").read_bytes()
    recipe = MU if what == "train" else dataclasses.replace(pretraining_recipes.get("gmml", "mu"), epochs=5)

    def goes_on(out: Path) -> None:
        (train if what == "train" else pretrain)(recipe, tmp_path / "store", out, device="cpu", checkpoint_steps=1)

    def loses(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 6:
            os.truncate(tmp_path / "store" / "images.u8", 5000)
        return real(*args, **options)

    monkeypatch.setattr(place, name, loses)
    with pytest.raises(CxrError, match="can no longer be read .it ends within image"):
        goes_on(tmp_path / "run")
    monkeypatch.setattr(place, name, real)
    with pytest.raises(CxrError, match="is damaged"):
        goes_on(tmp_path / "run")
    (tmp_path / "store" / "images.u8").write_bytes(content)
    goes_on(tmp_path / "run")
    if what == "train":
        assert_same_run(whole, tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()


# Nothing is unpickled

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickles(source: str) -> list[str]:
    """What in a Python source would run code from a file that it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in UNPICKLERS else []
            found += [f"{node.module}.load" for alias in node.names if (node.module, alias.name) in {("torch", "load"), ("torch", "hub")}]
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value) if node.attr in ("load", "package", "hub") else ""
            found += [f"{owner}.{node.attr}"] if owner in ("torch", "torch.jit") else []
            found += [node.attr] if node.attr in ("read_pickle", "load_state_dict_from_url") else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += ["allow_pickle"] if not (isinstance(node.value, ast.Constant) and node.value.value is False) else []
        elif isinstance(node, ast.keyword) and node.arg == "weights_only":
            found += ["weights_only"]
    return found


def test_nothing_is_unpickled():
    for source in ("torch.load(p)", "import pickle", "from pickle import load", "np.load(p, allow_pickle=True)", "from torch import load",
                   "pd.read_pickle(p)", "np.load(p, allow_pickle=x)", "torch.hub.load('a', 'b')"):  # fmt: skip
        assert unpickles(source), source
    assert not unpickles("np.load(p)\nnp.load(p, allow_pickle=False)\nsafetensors.torch.load(b)\njson.load(f)")
    files = sorted(Path(cxrlib.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    assert {str(file): found for file in files if (found := unpickles(file.read_text(encoding="utf-8")))} == {}


def test_weights_that_do_not_fit_exactly_are_refused(whole, store, tmp_path):
    """A name too many, a name missing, another shape: each is one line, none is passed over."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    tensors, progress = read_tensors(whole / "last.safetensors")
    name = next(name for name in tensors if name.startswith("model.blocks.0"))
    spoilt = {
        "missing": {key: value for key, value in tensors.items() if key != name},
        "too many": tensors | {"model.extra": torch.zeros(3)},
        "shape": tensors | {name: torch.zeros(5)},
    }
    for what, wrong in spoilt.items():
        for file in ("last.safetensors", "previous.safetensors"):
            checkpoint.write_tensors(tmp_path / "run" / file, wrong, progress)
        with pytest.raises(CxrError) as refused:
            train(MU, store, tmp_path / "run", device="cpu")
        assert "last.safetensors" in str(refused.value), what
