"""Pictures for notebooks: images of every layout, curves of functions, tensors as arrays."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from clearloop.errors import ConfigError, DataError
from clearloop.pictures import plot_function, show_image, to_np


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def shown(ax):
    """What is on the axes: the values of its one image."""
    (image,) = ax.images
    return np.asarray(image.get_array())


GREY = torch.arange(28 * 20).view(28, 20)  # values tell positions apart
COLOUR = torch.rand(28, 20, 3, generator=torch.Generator().manual_seed(0))
grey_layouts = {
    "tensor (H, W)": GREY,
    "tensor (1, H, W)": GREY[None],
    "tensor (H, W, 1)": GREY[:, :, None],
    "array (H, W)": GREY.numpy(),
    "array (1, H, W)": GREY[None].numpy(),
    "array (H, W, 1)": GREY[:, :, None].numpy(),
    "list of lists": GREY.tolist(),
    "picture": Image.fromarray(GREY.numpy().astype(np.int32)),
    "float picture": Image.fromarray(GREY.numpy().astype(np.float32)),
}
colour_layouts = {
    "tensor (3, H, W)": COLOUR.permute(2, 0, 1),
    "tensor (H, W, 3)": COLOUR,
    "array (3, H, W)": COLOUR.permute(2, 0, 1).numpy(),
    "array (H, W, 3)": COLOUR.numpy(),
}


@pytest.mark.parametrize("name", grey_layouts)
def test_one_channel_is_shown_in_any_layout(name):
    assert np.array_equal(shown(show_image(grey_layouts[name])), GREY)


@pytest.mark.parametrize("name", colour_layouts)
def test_three_channels_are_shown_in_any_layout(name):
    assert np.array_equal(shown(show_image(colour_layouts[name])), COLOUR)


@pytest.mark.parametrize(
    ("mode", "shape"), [("1", (4, 6)), ("L", (4, 6)), ("RGB", (4, 6, 3)), ("RGBA", (4, 6, 4)), ("CMYK", (4, 6, 3))]
)
def test_pictures_of_any_mode_are_shown(mode, shape):
    assert shown(show_image(Image.new(mode, (6, 4)))).shape == shape


def test_a_palettes_numbers_are_shown_as_their_colours():
    picture = Image.new("P", (6, 4), 1)
    picture.putpalette([0, 0, 0, 250, 120, 10])
    assert shown(show_image(picture))[0, 0].tolist() == [250, 120, 10]


def test_what_has_a_gradient_or_few_bits_is_shown():
    assert shown(show_image(COLOUR.clone().requires_grad_())).shape == (28, 20, 3)
    assert shown(show_image(torch.ones(4, 4, dtype=torch.bfloat16))).tolist() == np.ones((4, 4)).tolist()
    assert shown(show_image(torch.eye(4) > 0)).tolist() == np.eye(4).tolist()


def test_a_picture_as_small_as_its_channels_is_taken_as_what_its_kind_has_first():
    ambiguous = np.zeros((3, 5, 3))
    assert shown(show_image(ambiguous)).shape == (3, 5, 3)
    assert shown(show_image(torch.zeros(3, 5, 4))).shape == (5, 4, 3)


@pytest.mark.parametrize("shape", [(784,), (64, 1, 28, 28), (28, 28, 2), (10, 28, 28), (0, 28), ()])
@pytest.mark.parametrize("kind", [torch.zeros, np.zeros])
def test_what_is_no_image_is_refused_with_its_shape(shape, kind):
    with pytest.raises(DataError, match="expected one image of shape") as caught:
        show_image(kind(shape))
    assert str(shape) in str(caught.value)
    assert not plt.get_fignums()  # no empty figure is left


def test_an_image_is_drawn_without_ticks_on_axes_that_are_returned_and_current():
    ax = show_image(GREY)
    assert ax is plt.gca()
    assert not ax.axison
    assert ax.get_title() == ""


def test_an_image_is_drawn_on_given_axes_with_a_title():
    figure, (left, right) = plt.subplots(1, 2)
    assert show_image(GREY, left, title=3) is left
    assert show_image(GREY, ax=right, title=torch.tensor(7)) is right
    assert [ax.get_title() for ax in (left, right)] == ["3", "tensor(7)"]
    assert plt.get_fignums() == [figure.number]


def test_the_size_of_a_figure_follows_the_image_unless_it_is_given():
    assert show_image(torch.zeros(28, 56)).figure.get_size_inches().tolist() == [4.0, 2.0]
    assert show_image(torch.zeros(2, 2000)).figure.get_size_inches().tolist() == [6.0, 1.0]
    assert show_image(GREY, figsize=(3, 1)).figure.get_size_inches().tolist() == [3.0, 1.0]


def test_ink_is_dark_on_white_unless_the_caller_or_a_setting_says_otherwise():
    assert show_image(GREY).images[0].get_cmap().name == "Greys"
    assert show_image(GREY, cmap="magma").images[0].get_cmap().name == "magma"
    with mpl.rc_context({"image.cmap": "gray"}):
        assert show_image(GREY).images[0].get_cmap().name == "gray"
        assert show_image(GREY, cmap="magma").images[0].get_cmap().name == "magma"


def test_a_function_is_drawn_on_axes_that_stay_current():
    plot_function(lambda x: x**2, "x", "x**2", min=-1, max=3, title="A parabola", figsize=(3, 2))
    ax = plt.gca()
    x, y = ax.lines[0].get_data()
    assert (x[0], x[-1], len(x)) == (-1, 3, 100)
    assert np.array_equal(y, x**2)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x", "x**2", "A parabola")
    assert ax.figure.get_size_inches().tolist() == [3, 2]
    plt.scatter(-0.5, 0.25, color="red")
    assert len(plt.get_fignums()) == 1
    assert plt.gca() is ax
    assert ax.collections[0].get_offsets().tolist() == [[-0.5, 0.25]]


def test_a_function_is_drawn_from_minus_two_to_two_without_names_if_none_are_given():
    assert plot_function(torch.relu) is None  # or a notebook would print it
    ax = plt.gca()
    x, y = ax.lines[0].get_data()
    assert (x[0], x[-1], y[0], y[-1]) == (-2, 2, 0, 2)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("", "", "")


def test_functions_that_use_numpy_or_weights_are_drawn():
    weight = torch.tensor(3.0, requires_grad=True)
    for f in (lambda x: np.sin(x.numpy()), lambda x: weight * x, torch.nn.Sigmoid()):
        plot_function(f)
        assert len(plt.gca().lines[0].get_ydata()) == 100


def test_limits_in_the_wrong_order_and_functions_of_another_shape_are_refused():
    with pytest.raises(ConfigError, match="min below max, got 2 and -2"):
        plot_function(torch.relu, min=2, max=-2)
    with pytest.raises(DataError, match=r"a value for each of 100, got shape \(\)"):
        plot_function(torch.sum)
    assert not plt.get_fignums()


def test_tensors_in_any_nesting_become_arrays():
    found = to_np({"a": [torch.ones(2, requires_grad=True), 3], "b": (torch.tensor([1], dtype=torch.bfloat16),)})
    assert found["a"][0].tolist() == [1, 1]
    assert found["a"][1] == 3
    assert found["b"][0].dtype == np.float32
