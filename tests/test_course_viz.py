"""Figures: the words travel with the picture, boxes lie where they should, a knob works with and without a kernel."""

import base64
import io

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image

from cxrlib import viz


@pytest.fixture
def shown(monkeypatch):
    """What a cell would display."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: bundles.append(data))
    return bundles


def _line(length=5):
    fig, ax = viz.figure(width=2, height=2)
    ax.plot(np.arange(length))
    return fig


def test_show_gives_one_output_with_two_forms(shown):
    from matplotlib import pyplot

    fig = _line()
    viz.show(fig, "A line that rises from 0 to 4.")
    [bundle] = shown
    assert set(bundle) == {"image/png", "text/plain"}
    assert bundle["text/plain"] == "A line that rises from 0 to 4."
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).width > 100
    assert not pyplot.fignum_exists(fig.number)


@pytest.mark.parametrize("alt", ["", "a plot", "figure_1.png", "This has no full stop at its end"])
def test_show_demands_a_sentence(shown, alt):
    with pytest.raises(ValueError, match="sentence"):
        viz.show(_line(), alt)
    assert shown == []


def test_the_same_figure_gives_the_same_bytes():
    assert viz.png_of(_line()) == viz.png_of(_line())
    assert viz.png_of(_line(5)) != viz.png_of(_line(6))


def test_a_radiograph_has_two_axes_and_a_fixed_window():
    fig, ax = viz.figure()
    viz.radiograph(ax, np.full((4, 6), 90, np.uint8))
    assert ax.get_images()[0].get_clim() == (0, 255)
    viz.radiograph(ax, torch.zeros(4, 6), low=-1, high=1)
    assert ax.get_images()[1].get_clim() == (-1, 1)
    with pytest.raises(ValueError, match="shape"):
        viz.radiograph(ax, np.zeros((3, 4, 6)))


def test_a_half_open_box_frames_its_pixels():
    """Pixels 2 to 4 in x and 1 in y: the frame runs along their outer edges."""
    fig, ax = viz.figure()
    viz.radiograph(ax, np.zeros((6, 8)))
    viz.boxes(ax, [2, 1, 5, 2], label="here")
    [patch] = ax.patches
    assert (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) == (1.5, 0.5, 3, 1)
    viz.boxes(ax, np.array([[0, 0, 1, 1], [2, 2, 4, 4]]), dashed=True)
    assert len(ax.patches) == 3 and ax.patches[-1].get_linestyle() == "--"


def test_an_overlay_covers_the_picture():
    fig, ax = viz.figure()
    viz.radiograph(ax, np.zeros((48, 32)))
    heat = viz.overlay(ax, np.ones((3, 2)))
    assert tuple(heat.get_extent()) == (-0.5, 31.5, 47.5, -0.5)


def test_an_empty_mask_draws_nothing():
    fig, ax = viz.figure()
    viz.mask(ax, np.zeros((4, 6), bool))
    assert not ax.collections
    viz.mask(ax, np.eye(6, dtype=bool), label="a lesion")
    assert ax.collections


def test_a_grid_fills_its_rest_with_nothing():
    fig, axes = viz.grid([np.zeros((6, 4))] * 5, titles=["a", "b"], columns=3)
    assert len(axes) == 6
    assert [len(ax.get_images()) for ax in axes] == [1, 1, 1, 1, 1, 0]
    assert not axes[5].axison


def test_interval_bars_leave_undefined_rows_empty():
    fig, ax = viz.figure()
    viz.interval_bars(ax, ["a", "b", "c"], [0.7, np.nan, 0.9], [0.6, np.nan, 0.8], [0.8, np.nan, 0.95], reference=0.5)
    [points] = [line for line in ax.lines if line.get_marker() == "o"]
    assert points.get_ydata().tolist() == [2, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]


def test_roc_curves_differ_by_more_than_colour():
    fig, ax = viz.figure()
    viz.roc(ax, {"a": ([0, 1], [0, 1]), "b": ([0, 1], [0, 1])})
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()


def _draw(patch):
    return _line(patch), f'A "line" of {patch} points that rises to its end.'


def test_a_knob_turns_without_a_kernel(shown):
    viz.knob(_draw, patch=(4, 8, 16))
    [bundle] = shown
    assert bundle["text/plain"] == "A slider for patch: 4, 8, 16; one picture for each position."
    box = _all_widgets()[bundle["application/vnd.jupyter.widget-view+json"]["model_id"]]
    slider, pages = box.children
    assert [text for text, _ in slider.options] == ["4", "8", "16"]
    assert 'alt="A &quot;line&quot; of 8 points' in pages.children[1].value
    links = [w for w in _all_widgets().values() if type(w).__name__ == "Link" and w.source == (slider, "index")]
    assert [link.target for link in links] == [(pages, "selected_index")]


def _all_widgets() -> dict:
    from ipywidgets.widgets import widget

    return widget._instances


def test_a_knob_turns_on_colabs_older_widgets(shown, monkeypatch):
    monkeypatch.delattr(widgets, "Stack")
    viz.knob(_draw, patch=(4, 8))
    [bundle] = shown
    slider, page = _all_widgets()[bundle["application/vnd.jupyter.widget-view+json"]["model_id"]].children
    before = page.value
    slider.index = 1
    assert page.value != before and "of 8 points" in page.value


@pytest.mark.parametrize("choices", [{}, {"a": (1, 2), "b": (1, 2)}, {"a": (1,)}, {"a": range(10)}])
def test_a_knob_has_one_name_and_a_few_positions(choices):
    with pytest.raises(ValueError, match="knob"):
        viz.knob(_draw, **choices)
