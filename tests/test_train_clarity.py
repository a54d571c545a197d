"""CLARiTy's objective: the right rows, regions and teacher's words for each view, and mask terms that wait."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_store import tiny_store

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
from cxrlib import cli, recipes
from cxrlib.data import prepare, read_nih
from cxrlib.data.augment import augment, normalise, to_float
from cxrlib.data.feed import epoch_order, training_batches
from cxrlib.distillation import LogitStore, Teacher, make_logits
from cxrlib.errors import CxrError
from cxrlib.losses.clarity import Weights, clarity_forward, clarity_terms, weighted_sum
from cxrlib.models import Clarity
from cxrlib.phantom import write_cohort
from cxrlib.priors import make_priors, phantom_source
from cxrlib.priors.moving import move_regions, to_patches
from cxrlib.training.clarity import ClarityObjective
from cxrlib.training.objectives import Part
from cxrlib.training import loop, train
from cxrlib.training.checkpoint import read_tensors
from cxrlib.training.start import start_head_at_prevalence, start_weights

RECIPE = dataclasses.replace(recipes.mu(), image_size=48, batch=16)
SIZES = {"image_size": 48, "patch_size": 8, "in_channels": 1, "width": 64, "depth": 3, "heads": 4, "stem": "conv"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 phantoms with their exact anatomy as priors."""
    folder = tmp_path_factory.mktemp("clarity")
    write_cohort(folder / "phantom", n=60, size=48, seed=1, prevalence="enriched", progress=False)
    store = prepare(read_nih(folder / "phantom"), folder / "store", size=48)
    source = phantom_source(store, 48, folder / "phantom")
    return store, make_priors(store, folder / "priors", source="phantom", structures_of=source, size=48)


def batches(store, rows, epoch):
    """What the training loop shows: (img_BIYX, labels_BC, part)."""
    for batch in training_batches(store.images_NYX, store.labels_NC, rows, batch=RECIPE.batch, seed=RECIPE.seed, epoch=epoch):
        img_BIYX, matrix_B23 = augment(to_float(batch.img_BYX), batch.draws_BK, RECIPE.ranges)
        told = Part(batch.rows_B.numpy(), matrix_B23, float(epoch), batch.known, batch.present, batch.images)
        yield normalise(img_BIYX, mean=(0.5,), std=(0.25,)), batch.labels_BC, told


@pytest.mark.parametrize("rank, world", [(0, 1), (1, 2)])
def test_a_batch_says_which_rows_it_is(data, rank, world):
    store, _ = data
    rows = np.asarray(store.where(split="train_val"))
    batches = training_batches(store.images_NYX, store.labels_NC, rows, batch=10, seed=3, epoch=2, rank=rank, world=world)
    for number, batch in enumerate(batches):
        assert np.array_equal(store.images_NYX[batch.rows_B], batch.img_BYX.numpy())
        assert batch.images == 10
        order = epoch_order(len(rows), seed=3, epoch=2)
        whole_GC = store.labels_NC[rows[order[10 * number : 10 * number + 10]]]
        assert batch.known == (~np.isnan(whole_GC)).sum() and batch.present == (whole_GC == 1).sum()


def test_the_objective_is_the_sum_of_its_terms_on_the_moved_regions_and_the_teachers_words(data, tmp_path):
    store, priors = data
    rows = np.asarray(store.where(split="train_val"))
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, width=24, depth=1)
    teacher = Teacher(recipe.build(14).eval(), recipe, store.findings, "0" * 64, "vit")
    torch.nn.init.normal_(teacher.model.head.weight)
    views = {"seed": RECIPE.seed, "epochs": 2, "ranges": RECIPE.ranges}
    make_logits(store, tmp_path, teacher, rows=rows, **views)
    logits = LogitStore.open(tmp_path, store, rows, **views)
    findings = ("Mass", "Effusion", "Cardiomegaly")
    model = Clarity(num_classes=3, **SIZES)
    model.start_at(torch.tensor([-2.0, -1.0, 1.0]))  # at 0 a teacher's word would not change the cross-entropy
    weights = Weights(contrastive=0.2)
    objective = ClarityObjective(
        findings=findings, grid=model.grid, image_size=48, weights=weights, priors=priors, teacher=logits,
        wait_epochs=0.0, ramp_epochs=4.0,
    )  # fmt: skip
    columns = [store.findings.index(name) for name in findings]
    img_BIYX, labels_BC, part = next(batches(store, rows, 1))
    labels_BC = labels_BC[:, columns]
    part = part._replace(known=float(labels_BC.numel()), present=float(labels_BC.sum()))  # of these findings
    loss = objective(model, img_BIYX, labels_BC, part)

    region_BCyx = to_patches(move_regions(priors.regions(part.rows_B)[:, columns], part.matrix_B23, image=48), (6, 6))
    said_BC = teacher.logits(img_BIYX * 0.25 + 0.5)[:, columns]
    out = clarity_forward(model, img_BIYX, labels_BC, weights)
    terms = clarity_terms(out, labels_BC, region_BCyx, said_BC, weights=weights)
    torch.testing.assert_close(loss, weighted_sum(terms, weights, ramp=0.25), atol=1e-3, rtol=1e-3)  # logits have 16 bits
    assert 0.05 < region_BCyx.mean() < 0.95 and len(terms) == 9
    other = weighted_sum(clarity_terms(out, labels_BC, region_BCyx, weights=weights), weights, ramp=0.25)
    assert abs(loss.item() - other.item()) > 0.01  # the teacher does say something else
    with pytest.raises(CxrError, match="priors"):
        dataclasses.replace(objective, priors=None)(model, img_BIYX, labels_BC, part)


def test_mask_terms_wait_and_grow(data):
    """While they wait nothing of them reaches the heatmap, not even a little: Adam would make it much."""
    store, priors = data
    rows = np.asarray(store.where(split="train_val"))
    torch.manual_seed(0)
    model = Clarity(num_classes=14, **SIZES)
    objective = ClarityObjective(findings=store.findings, grid=model.grid, image_size=48, priors=priors, wait_epochs=2.0, ramp_epochs=4.0)
    img_BIYX, labels_BC, part = next(batches(store, rows, 0))

    def loss(done: float) -> float:
        model.zero_grad()
        value = objective(model, img_BIYX, labels_BC, part._replace(done=done))
        value.backward()
        return value.item()

    waiting = [loss(0.0), loss(1.9), loss(2.0)]
    assert waiting[0] == waiting[1] == waiting[2]
    assert model.segment_cam.heatmap[0].bias.grad.abs().max() == 0  # the heads say nothing yet, so the mask changes nothing
    growing = [loss(3.0) - waiting[0], loss(4.0) - waiting[0], loss(6.0) - waiting[0], loss(20.0) - waiting[0]]
    assert growing[0] > 0.1 and growing[1] == pytest.approx(2 * growing[0], rel=1e-4)
    assert growing[2] == pytest.approx(4 * growing[0], rel=1e-4) and growing[3] == growing[2]
    assert (model.segment_cam.heatmap[0].bias.grad > 0).any()


def test_a_step_on_the_whole_loss_goes_down(data):
    """Every term on, every parameter moved, a few steps on one batch."""
    store, priors = data
    rows = np.asarray(store.where(split="train_val"))
    torch.manual_seed(0)
    model = Clarity(num_classes=14, **SIZES)
    start_weights(model, "fan")
    start_head_at_prevalence(model, store.labels_NC[rows])
    model.start_at(model.head.bias.detach().clone())
    objective = ClarityObjective(
        findings=store.findings, grid=model.grid, image_size=48, priors=priors, wait_epochs=0.0, ramp_epochs=0.0
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    img_BIYX, labels_BC, part = next(batches(store, rows, 0))
    losses = []
    for _ in range(6):
        loss = objective(model, img_BIYX, labels_BC, part)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny store with the template as priors, a teacher, and its logits, all by the commands that a reader would type."""
    folder = tmp_path_factory.mktemp("small")
    store = str(tiny_store(folder).folder)
    assert cli.main(["priors", "make", store, str(folder / "priors"), "--source", "template", "--size", "16"]) == 0
    assert cli.main(["train", "mu", "--data", store, "--out", str(folder / "teacher")]) == 0
    assert cli.main(["teach", str(folder / "teacher"), "--data", store, "--recipe", "mu", "--out", str(folder / "logits")]) == 0
    return folder


def command(small, out, *more):
    return ["train", "mu", "--model", "clarity", "--data", str(small / "store"), "--out", str(out), "--device", "cpu", *more]


WHOLE = ("--loss", "wait_epochs=0.5", "--loss", "ramp_epochs=1")


def whole(small):
    return (*WHOLE, "--priors", str(small / "priors"), "--teacher", str(small / "logits"))


def test_the_command_trains_the_whole_and_a_run_that_dies_goes_on_to_the_same_bits(small, tmp_path, monkeypatch):
    assert cli.main(command(small, tmp_path / "one", *whole(small))) == 0
    assert cli.main(["evaluate", str(tmp_path / "one"), "--split", "test"]) == 0
    real, calls = loop.train_step, []

    def dies(*args, **options):
        calls.append(options["done"])
        if len(calls) == 8:
            raise RuntimeError("power cut")
        return real(*args, **options)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe_of(small), small / "store", tmp_path / "cut", device="cpu", checkpoint_steps=1)
    assert calls[0] == 0 and calls[-1] > 1  # into the second epoch, while the mask terms grow
    monkeypatch.setattr(loop, "train_step", real)
    train(recipe_of(small), small / "store", tmp_path / "cut", device="cpu")
    one, cut = (read_tensors(tmp_path / name / "last.safetensors")[0] for name in ("one", "cut"))
    assert one.keys() == cut.keys() and all(torch.equal(one[name], cut[name]) for name in one)


def recipe_of(small):
    return dataclasses.replace(
        recipes.mu(), model="clarity", losses={"wait_epochs": 0.5, "ramp_epochs": 1}, priors=str(small / "priors"),
        teacher=str(small / "logits"),
    )  # fmt: skip


def test_parts_of_a_batch_add_up_to_the_whole(small, tmp_path):
    """Counts are of the whole batch: two parts give the gradient of one, but for rounding."""
    ends = []
    for micro in (16, 5):
        recipe = dataclasses.replace(recipe_of(small), micro_batch=micro, epochs=1, drop_path=0.0, losses={"wait_epochs": 0.0, "ramp_epochs": 0.0})
        train(recipe, small / "store", tmp_path / str(micro), device="cpu")
        log = (tmp_path / str(micro) / "log.jsonl").read_text().splitlines()
        ends.append([json.loads(line)["loss"] for line in log if '"epoch"' in line])
    assert ends[0] == pytest.approx(ends[1], rel=1e-4) and ends[0]


@pytest.mark.parametrize(
    "more, told",
    [
        ((), "--priors PRIORS"),
        (("--loss", "masks=1"), "no loss 'masks'"),
        (("--loss", "orthogonal=abc"), "orthogonal=abc is no weight"),
        (("--loss", "ramp_epochs=-1"), "ramp_epochs=-1 is no weight"),
        (("--loss", "teacher=2"), "teacher: at most 1"),
        (("--loss", "area=NaN"), "area=nan is no weight"),
        (("--priors", "nowhere"), "no finished priors"),
        (("--loss", "proximity=0", "--loss", "confinement=0", "--teacher", "nowhere"), "no finished logits"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_nothing_is_written(small, tmp_path, capsys, more, told):
    assert cli.main(command(small, tmp_path / "run", *more)) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_remade_regions_are_noticed(small, tmp_path):
    priors = tmp_path / "priors"
    shutil.copytree(small / "priors", priors)
    recipe = dataclasses.replace(recipe_of(small), priors=str(priors), teacher="", epochs=1)
    train(recipe, small / "store", tmp_path / "run", device="cpu")
    shutil.rmtree(priors)
    assert cli.main(["priors", "make", str(small / "store"), str(priors), "--source", "template", "--size", "32"]) == 0
    with pytest.raises(CxrError, match="other --priors"):
        train(recipe, small / "store", tmp_path / "run", device="cpu")


STEADY = """
import dataclasses, sys
from cxrlib import cli, recipes
real = recipes.mu
def mu():
    "mu without what is random inside the model: each process would draw its own."
    return dataclasses.replace(real(), drop_path=0.0)
recipes.RECIPES["mu"] = mu
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.timeout(240)  # two interpreters that import torch
def test_two_processes_take_the_steps_of_one(small, tmp_path):
    """Counts of known, present and all pairs are of the global batch: the losses agree, masks and teacher included."""
    (tmp_path / "script.py").write_text(STEADY)
    losses = []
    for devices in ("1", "2"):
        words = command(small, tmp_path / devices, *whole(small), "--epochs", "2", "--devices", devices)
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(loop.__file__).parents[2])}
        done = subprocess.run([sys.executable, str(tmp_path / "script.py"), *words], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        log = [json.loads(line) for line in (tmp_path / devices / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in log if line["event"] == "epoch"])
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_logits_of_another_seed_are_refused(small, tmp_path, capsys):
    assert cli.main(command(small, tmp_path / "run", *whole(small), "--seed", "1")) == 2
    assert "make them again with its recipe and seed" in capsys.readouterr().err


def test_another_model_has_none_of_these(small, tmp_path, capsys):
    given = ["train", "mu", "--data", str(small / "store"), "--out", str(tmp_path / "run"), "--loss", "orthogonal=1"]
    assert cli.main(given) == 2 and "leave --loss out" in capsys.readouterr().err


def test_without_segment_cam_no_region_is_needed(small, tmp_path):
    assert cli.main(command(small, tmp_path / "run", "--option", "segment_cam=false", "--option", "pool=mean", "--epochs", "1")) == 0
    assert (tmp_path / "run" / "result.json").exists()
