"""Figures, with words for those who cannot see them.

Every figure of the book goes through `show(fig, alt)`: the picture, and one sentence that says what it shows, travel
together. The sentence is made from the data that is drawn.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

PALETTE: dict[str, str] = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "sky": "#56B4E9",
    "pink": "#CC79A7",
    "yellow": "#F0E442",
    "grey": "#595959",
}
"""Okabe and Ito's colours, told apart by colour-blind readers (https://jfly.uni-koeln.de/color/)."""

CYCLE = [PALETTE[name] for name in ("blue", "orange", "green", "red", "sky", "pink", "grey")]
DPI = 110


def use_style() -> None:
    """Sets one look for all figures: the palette, white ground, light grid off, sizes that fit the page."""
    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "figure.dpi": DPI,
            "figure.facecolor": "white",
            "figure.figsize": (7.5, 3.6),
            "font.size": 10,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "savefig.facecolor": "white",
        }
    )


def png_of(fig: Figure) -> bytes:
    """A figure as PNG bytes, the same bytes for the same figure (no date, no version inside)."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Displays a figure together with a sentence that says what it shows, and closes it.

    Picture and sentence are one output with two forms, so the book can use the sentence as the picture's alternative
    text and a test can compare it. At most one figure per cell.

    Args:
        fig: The figure. It is closed.
        alt: One or two sentences made from the data that is drawn, its numbers computed and rounded.

    Raises:
        ValueError: `alt` is no sentence.
    """
    from IPython.display import display

    _demand_sentence(alt)
    display({"image/png": base64.b64encode(png_of(fig)).decode(), "text/plain": alt}, raw=True)
    _close(fig)


def _demand_sentence(alt: str) -> None:
    if len(alt.split()) < 6 or not alt.rstrip().endswith((".", "!", "?")):
        raise ValueError(f"alt text must be a sentence that says what the figure shows, not {alt!r}")


def _close(fig: Figure) -> None:
    from matplotlib import pyplot

    pyplot.close(fig)


def figure(rows: int = 1, columns: int = 1, *, width: float = 7.5, height: float = 3.4, **subplots: Any):
    """A new figure and its axes, `pyplot.subplots` with the course's sizes (inches, at most 9 wide)."""
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(min(width, 9), height), layout="constrained", **subplots)


def radiograph(ax, img_YX: Any, *, title: str = "", low: float | None = None, high: float | None = None) -> None:
    """Draws a radiograph in grey without axes.

    Args:
        ax: Matplotlib axes.
        img_YX: Pixels [Y, X], bright where X-rays were stopped.
        title: Above the picture.
        low: Grey value shown as black. Default: 0 for uint8, else the smallest.
        high: Grey value shown as white. Default: 255 for uint8, else the largest.
    """
    img_YX = _numpy(img_YX)
    if img_YX.ndim != 2:
        raise ValueError(f"a radiograph has two axes [Y, X], this array has shape {img_YX.shape}")
    if img_YX.dtype == np.uint8:
        low, high = 0 if low is None else low, 255 if high is None else high
    ax.imshow(img_YX, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)


def boxes(ax, xyxy_M4: Any, *, color: str = "orange", label: str = "", dashed: bool = False) -> None:
    """Draws boxes (float xyxy, half-open: x1 and y1 lie just outside) over a picture drawn with `radiograph`.

    Args:
        ax: The axes of the picture.
        xyxy_M4: Boxes [M, 4] or one box [4], in the pixels of the picture that is drawn.
        color: A name of `PALETTE` or any matplotlib colour.
        label: Written above each box.
        dashed: For a predicted box beside a drawn one: never by colour alone.
    """
    from matplotlib.patches import Rectangle

    color = PALETTE.get(color, color)
    for x0, y0, x1, y1 in np.atleast_2d(_numpy(xyxy_M4)).astype(float):
        # Pixel i covers [i - 0.5, i + 0.5] on imshow's axes and [i, i + 1) in our frame: hence the half pixel.
        corner = (x0 - 0.5, y0 - 0.5)
        style = "--" if dashed else "-"
        ax.add_patch(Rectangle(corner, x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1.8, linestyle=style))
        if label:
            ax.text(x0, y0 - 2, label, color=color, fontsize=8, va="bottom", fontweight="bold")


def overlay(ax, heat_YX: Any, *, cmap: str = "inferno", alpha: float = 0.45, low: float = 0.0, high: float | None = None):
    """Lays a heat map over a picture of another size, stretched to cover it. Returns the mappable for a colour bar."""
    heat_YX = _numpy(heat_YX).astype(float)
    picture = ax.get_images()[0].get_array() if ax.get_images() else heat_YX
    height, width = picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return ax.imshow(heat_YX, cmap=cmap, alpha=alpha, vmin=low, vmax=high, extent=extent, interpolation="nearest")


def mask(ax, mask_YX: Any, *, color: str = "orange", label: str = "") -> None:
    """Draws the outline of a boolean mask over a picture of the same size."""
    mask_YX = _numpy(mask_YX).astype(float)
    if mask_YX.max() > 0:
        ax.contour(mask_YX, levels=[0.5], colors=[PALETTE.get(color, color)], linewidths=1.4)
    if label:
        ax.plot([], [], color=PALETTE.get(color, color), label=label)


def grid(
    images: Sequence[Any], *, titles: Sequence[str] = (), columns: int = 4, width: float = 8.0, low=None, high=None
):
    """A figure with radiographs side by side. Returns (fig, flat array of axes), so that boxes can be added."""
    count = len(images)
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = _numpy(images[0]).shape
    cell = min(width, 9) / columns
    height = rows * (cell * shape[0] / shape[1] + (0.3 if titles else 0.05))
    fig, axes = figure(rows, columns, width=width, height=height, squeeze=False)
    for i, ax in enumerate(axes.flat):
        if i < count:
            radiograph(ax, images[i], title=titles[i] if i < len(titles) else "", low=low, high=high)
        else:
            ax.set_axis_off()
    return fig, axes.ravel()


def roc(ax, curves: Mapping[str, tuple[Any, Any]]) -> None:
    """Draws ROC curves with the diagonal of a coin.

    Args:
        ax: Matplotlib axes.
        curves: (false positive rates, true positive rates) by label, as `cxrlib.metrics.roc_points` gives them.
    """
    styles = ("-", "--", "-.", ":")
    for i, (label, (fpr, tpr)) in enumerate(curves.items()):
        ax.plot(fpr, tpr, styles[i % len(styles)], label=label, linewidth=1.8)
    ax.plot([0, 1], [0, 1], color=PALETTE["grey"], linewidth=0.8)
    ax.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    ax.legend(loc="lower right")


def interval_bars(
    ax, names: Sequence[str], values: Any, lows: Any, highs: Any, *, reference: float | None = None, color: str = "blue"
) -> None:
    """Draws values with their intervals, one row per name, top to bottom in the order given; NaN rows stay empty.

    Args:
        ax: Matplotlib axes.
        names: Row names.
        values: Points [M].
        lows: Lower ends [M].
        highs: Upper ends [M].
        reference: A thin upright line, for example chance at 0.5.
        color: A name of `PALETTE`.
    """
    values, lows, highs = (_numpy(v).astype(float) for v in (values, lows, highs))
    y = np.arange(len(names))[::-1]
    good = np.isfinite(values)
    spread = np.stack([values - lows, highs - values])[:, good]
    ax.errorbar(values[good], y[good], xerr=np.maximum(spread, 0), fmt="o", color=PALETTE.get(color, color), capsize=3)
    ax.set_yticks(y, names)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.grid(axis="x", linewidth=0.4)
    if reference is not None:
        ax.axvline(reference, color=PALETTE["grey"], linewidth=0.8)


def knob(draw: Callable[..., tuple[Figure, str]], **choices: Iterable[Any]) -> None:
    """Shows a slider that changes a picture, also in the built book where no kernel runs.

    Every position's picture is drawn now and stored beside the slider; moving it only chooses among them. Put a
    static figure that says the same before it: a control is never the only way to see something.

    Args:
        draw: Called as `draw(name=value)` for each value; returns (figure, sentence that says what it shows).
        **choices: Exactly one name with its values, at most 9, for example `patch=(4, 8, 16, 32)`.
    """
    import ipywidgets as widgets
    from IPython.display import display

    if len(choices) != 1:
        raise ValueError("a knob has one name with its values, for example knob(draw, patch=(4, 8, 16))")
    [(name, values)] = choices.items()
    values = list(values)
    if not 2 <= len(values) <= 9:
        raise ValueError(f"a knob has 2 to 9 positions, not {len(values)}: every picture is stored in the notebook")
    frames = [_frame(draw, name, value) for value in values]
    texts = [f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in values]
    slider = widgets.SelectionSlider(
        options=[(text, i) for i, text in enumerate(texts)],
        index=0,
        description=name,
        style={"description_width": "initial"},
        layout=widgets.Layout(width="95%", max_width="460px"),
    )
    if hasattr(widgets, "Stack"):  # ipywidgets 8: the browser alone turns the pages
        pages = widgets.Stack(children=[widgets.HTML(frame) for frame in frames], selected_index=0)
        widgets.jslink((slider, "index"), (pages, "selected_index"))
    else:  # ipywidgets 7, as on Colab: the kernel turns them
        pages = widgets.HTML(frames[0])
        slider.observe(lambda change: setattr(pages, "value", frames[change["new"]]), names="index")
    box = widgets.VBox([slider, pages])
    words = f"A slider for {name}: {', '.join(texts)}; one picture for each position."
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": words}, raw=True)


def _frame(draw: Callable[..., tuple[Figure, str]], name: str, value: Any) -> str:
    """One position's picture as an HTML image with its alternative text."""
    import html

    fig, alt = draw(**{name: value})
    _demand_sentence(alt)
    data = base64.b64encode(png_of(fig)).decode()
    _close(fig)
    text = html.escape(alt, quote=True)
    return f'<img class="dark-light" style="max-width:100%" alt="{text}" src="data:image/png;base64,{data}">'


def _numpy(value: Any) -> np.ndarray:
    """A numpy array from a tensor (detached, on the CPU) or anything array-like."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
